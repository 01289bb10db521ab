import Core
import IO
import Synchronization

/// A repository's parity, in a place of its own beside it: `salvor/` below the repository, which restic passes over.
///
/// Laid out as a repository is: `data/` has parity files, `index/` says which object each is for, `config` how much there is
/// to be. All of it can be read without a key, and says no more than the repository's own names and sizes do.
package final class ParityStore: Sendable {
  /// Below the repository.
  package static let directory = "salvor"

  private struct State {
    var files: [ObjectName: Digest] = [:]
    var isLoaded = false
    /// Index files that were read.
    var tables: [ObjectName] = []
    /// In no index yet.
    var pending: [(ObjectName, Digest)] = []
    var failure: StoreError?
  }

  package let store: any ObjectStore
  package let share: ParityShare
  private let pool: BlockingPool
  private let state = Mutex(State())

  private init(_ store: any ObjectStore, _ share: ParityShare, _ pool: BlockingPool) {
    (self.store, self.share, self.pool) = (store, share, pool)
  }

  // MARK: Opening

  /// - Returns: `nil` where there is no parity.
  package static func open(
    _ store: any ObjectStore, pool: BlockingPool = .shared
  ) async throws(StoreError) -> ParityStore? {
    do throws(StoreError) {
      let json = try await store.get(.config)
      // A damaged setting is no reason to do without what is there.
      return ParityStore(store, share(in: json) ?? .usual, pool)
    } catch {
      switch error {
      case .cancelled, .unavailable: throw error
      // Not there, or a place that the storage gives nobody.
      default: return nil
      }
    }
  }

  /// Makes a place for parity; from then on there is some for everything that is written.
  package static func create(
    _ store: any ObjectStore, _ share: ParityShare, pool: BlockingPool = .shared
  ) async throws(StoreError) -> ParityStore {
    try await store.prepare()
    try await store.put(.config, Array("{\"version\":1,\"parity_percent\":\(share.percent)}\n".utf8))
    return ParityStore(store, share, pool)
  }

  private static func share(in json: [UInt8]) -> ParityShare? {
    guard json.count < 4096, let value = try? CanonicalJSON.decode(JSONValue.self, from: json) else { return nil }
    return value["parity_percent"]?.integer.flatMap { ParityShare(percent: Int($0)) }
  }

  // MARK: Writing

  /// Stores parity for an object; durable when it returns, and found again at the latest after ``flush()``.
  package func add(_ name: ObjectName, _ bytes: [UInt8]) async throws(StoreError) {
    let share = share
    let (file, id) = await pool.run { () -> ([UInt8], Digest) in
      let file = ParityFile.encode(name, bytes, share)
      return (file, file.withUnsafeBytes { PairedDigest.of($0) })
    }
    try await store.put(ObjectName(.data, id), file)
    let isMany = state.withLock { state in
      state.files[name] = id
      state.pending.append((name, id))
      return state.pending.count >= 5000
    }
    if isMany { try await flush() }
  }

  /// Writes down which parity belongs to what.
  package func flush() async throws(StoreError) {
    let pending = state.withLock { state in
      defer { state.pending = [] }
      return state.pending
    }
    guard !pending.isEmpty else { return }
    do throws(StoreError) { try await writeTable(pending) } catch {
      state.withLock { $0.pending = pending + $0.pending }
      throw error
    }
  }

  /// Forgets an object that is gone; its parity goes too.
  package func remove(_ name: ObjectName) async throws(StoreError) {
    try await load()
    guard let id = state.withLock({ $0.files.removeValue(forKey: name) }) else { return }
    state.withLock { state in state.pending.removeAll { $0.0 == name } }
    try await delete(ObjectName(.data, id))
  }

  /// Puts content in an object's place, safe while that is done: a store that can't replace in one step removes first.
  package func replace(_ name: ObjectName, _ bytes: [UInt8], in base: any ObjectStore) async throws(StoreError) {
    // Small objects lie whole in their parity anyway.
    guard name.kind == .data, let id = name.id else { return try await base.replace(name, bytes) }
    try await store.put(ObjectName(.data, id), bytes)
    try await base.replace(name, bytes)
    try await delete(ObjectName(.data, id))
  }

  /// Removes all of it, and the setting: first that, so that nobody counts on the rest.
  package func drop() async throws(StoreError) {
    try await delete(.config)
    for kind in [ObjectKind.index, .data] {
      for object in try await store.list(kind) { try await delete(object.name) }
    }
  }

  private func delete(_ name: ObjectName) async throws(StoreError) {
    do throws(StoreError) { try await store.delete(name) } catch {
      guard case .notFound = error else { throw error }
    }
  }

  // MARK: The table

  /// Writes one table in place of those that were read, without what is stale or damaged.
  private func compact() async throws(StoreError) {
    let (files, tables) = state.withLock { ($0.files.sorted { $0.key < $1.key }, $0.tables) }
    var new: Set<ObjectName> = []
    for start in stride(from: 0, to: files.count, by: 50_000) {
      new.insert(try await writeTable(files[start..<min(start + 50_000, files.count)].map { ($0.key, $0.value) }))
    }
    for table in tables where !new.contains(table) { try await delete(table) }
    state.withLock { $0.tables = new.sorted() }
  }

  @discardableResult
  private func writeTable(_ files: [(ObjectName, Digest)]) async throws(StoreError) -> ObjectName {
    var json = JSONOutput()
    json.raw(#"{"version":1,"files":["#)
    for (index, (name, parity)) in files.enumerated() {
      if index > 0 { json.byte(",") }
      json.raw(#"{"kind":"#)
      json.string(name.kind.rawValue)
      if let id = name.id {
        json.raw(#","id":"#)
        json.hex(id)
      }
      json.raw(#","parity":"#)
      json.hex(parity)
      json.byte("}")
    }
    json.raw("]}")
    let bytes = json.bytes
    let name = ObjectName(.index, Digest.of(bytes))
    try await store.put(name, bytes)
    return name
  }

  /// Learns which parity there is. Where the table is damaged or lacks something, the parity files themselves say.
  private func load() async throws(StoreError) {
    if state.withLock({ $0.isLoaded }) { return }
    var files: [ObjectName: Digest] = [:]
    let indexes = try await store.list(.index)
    for info in indexes {
      guard let id = info.name.id else { continue }
      let bytes: [UInt8]
      do throws(StoreError) { bytes = try await store.get(info.name) } catch {
        switch error {
        case .notFound, .corrupt, .pastEnd: continue
        default: throw error
        }
      }
      guard Digest.of(bytes) == id, let entries = Self.entries(bytes) else { continue }
      for (name, parity) in entries { files[name] = parity }
    }
    let tables = indexes.map(\.name)
    let listed = Set(try await store.list(.data).compactMap(\.name.id))
    files = files.filter { listed.contains($0.value) }
    for id in listed.subtracting(files.values).sorted() {
      guard let header = try await header(of: id), files[header.name] == nil else { continue }
      files[header.name] = id
      let name = header.name
      state.withLock { $0.pending.append((name, id)) }
    }
    let found = files
    state.withLock { state in
      state.files.merge(found) { new, _ in new }
      (state.isLoaded, state.tables) = (true, tables)
    }
  }

  private func header(of id: Digest) async throws(StoreError) -> ParityFile? {
    let name = ObjectName(.data, id)
    guard let size = try await store.size(of: name) else { return nil }
    do throws(StoreError) {
      let start = try await store.get(name, range: 0..<min(size, ParityFile.headerLimitBytes))
      if let header = ParityFile(header: start[...]) { return header }
      return ParityFile(try await store.get(name))
    } catch {
      switch error {
      case .notFound, .corrupt, .pastEnd: return nil
      default: throw error
      }
    }
  }

  private static func entries(_ json: [UInt8]) -> [(ObjectName, Digest)]? {
    var result: [(ObjectName, Digest)] = []
    do throws(JSONFault) {
      try JSONScanner.scan(json) { (scanner) throws(JSONFault) in
        try scanner.object { (key, scanner) throws(JSONFault) in
          guard key == "files" else { return try scanner.skip() }
          try scanner.array { (scanner) throws(JSONFault) in
            var (kind, id, parity): (ObjectKind?, Digest?, Digest?) = (nil, nil, nil)
            try scanner.object { (key, scanner) throws(JSONFault) in
              if key == "kind" {
                kind = ObjectKind(rawValue: try scanner.string())
              } else if key == "id" {
                id = try scanner.digest()
              } else if key == "parity" {
                parity = try scanner.digest()
              } else {
                try scanner.skip()
              }
            }
            guard let kind, let parity else { return }
            if kind == .config { result.append((.config, parity)) }
            if let id, kind != .config { result.append((ObjectName(kind, id), parity)) }
          }
        }
      }
    } catch { return nil }
    return result
  }

  // MARK: Looking

  /// Objects that have parity.
  package func covered() async throws(StoreError) -> Set<ObjectName> {
    try await load()
    return state.withLock { Set($0.files.keys) }
  }

  /// Whether an object's parity is whole.
  ///
  /// - Returns: `nil` for one without parity.
  package func isWhole(_ name: ObjectName) async throws(StoreError) -> Bool? {
    try await load()
    guard let id = state.withLock({ $0.files[name] }) else { return nil }
    guard let file = try await parityFile(id) else { return false }
    return await pool.run { file.withUnsafeBytes { PairedDigest.of($0) } == id }
  }

  private func parityFile(_ id: Digest) async throws(StoreError) -> [UInt8]? {
    do throws(StoreError) { return try await store.get(ObjectName(.data, id)) } catch {
      switch error {
      case .notFound, .corrupt, .pastEnd: return nil
      default: throw error
      }
    }
  }
}

extension ParityStore: RecoverySource {
  package var location: String { "parity in \(store.location)" }

  package func recover(_ name: ObjectName, damaged: [UInt8]?) async throws(StoreError) -> [UInt8]? {
    // A repair that was interrupted left it here.
    if name.kind == .data, let id = name.id, let staged = try await parityFile(id) { return staged }
    try await load()
    guard let id = state.withLock({ $0.files[name] }), let file = try await parityFile(id) else { return nil }
    return await pool.run { () -> [UInt8]? in
      guard let header = ParityFile(file), header.name == name else { return nil }
      return header.recover(damaged ?? [], file)
    }
  }

  package func hold(_ name: ObjectName, _ bytes: [UInt8]) async throws(StoreError) {
    guard name.kind == .data, let id = name.id else { return }
    try await store.put(ObjectName(.data, id), bytes)
  }

  package func names(_ kind: ObjectKind) async throws(StoreError) -> [ObjectName] {
    try await covered().filter { $0.kind == kind }.sorted()
  }
}

extension ParityStore {
  /// What there is to say about a repository's parity.
  package struct CheckReport: Sendable {
    package var covered = 0
    /// Objects without parity.
    package var missing: [ObjectName] = []
    /// Objects whose parity is damaged.
    package var damaged: [ObjectName] = []
    /// Parity of objects that the repository no longer has.
    package var stale: [ObjectName] = []
  }

  /// Objects that are protected: everything but locks.
  package static let kinds: [ObjectKind] = [.config, .key, .snapshot, .index, .data]

  /// - Parameter readsData: Reads every parity file.
  package func check(
    _ base: any ObjectStore, readsData: Bool,
    progress: @escaping @Sendable (_ done: Int, _ total: Int) -> Void = { _, _ in }
  ) async throws(StoreError) -> CheckReport {
    var report = CheckReport()
    let covered = try await covered()
    let objects = try await Self.objects(of: base)
    report.missing = objects.filter { !covered.contains($0) }.sorted()
    report.stale = covered.subtracting(objects).sorted()
    report.covered = covered.count - report.stale.count
    guard readsData else { return report }
    for (number, name) in covered.sorted().enumerated() {
      if try await isWhole(name) == false { report.damaged.append(name) }
      progress(number + 1, covered.count)
    }
    return report
  }

  static func objects(of base: any ObjectStore) async throws(StoreError) -> [ObjectName] {
    var result: [ObjectName] = []
    for kind in kinds where kind != .config { result += try await base.list(kind).map(\.name) }
    if try await base.contains(.config) { result.append(.config) }
    return result
  }

  /// Makes parity for what has none or a damaged one.
  ///
  /// - Parameter removesStale: Also removes parity of what the repository no longer has.
  /// - Returns: How many files were made, and objects that are damaged themselves: for those it is too late.
  package func complete(
    _ base: any ObjectStore, readsData: Bool, removesStale: Bool,
    progress: @escaping @Sendable (_ done: Int, _ total: Int) -> Void = { _, _ in }
  ) async throws(StoreError) -> (made: Int, removed: Int, damaged: [ObjectName]) {
    let report = try await check(base, readsData: readsData)
    let wanted = report.missing + report.damaged.filter { !report.stale.contains($0) }
    var result = (made: 0, removed: 0, damaged: [ObjectName]())
    for (number, name) in wanted.enumerated() {
      let bytes: [UInt8]
      do throws(StoreError) { bytes = try await base.get(name) } catch {
        switch error {
        // Gone since it was listed.
        case .notFound: continue
        case .corrupt, .pastEnd:
          result.damaged.append(name)
          continue
        default: throw error
        }
      }
      let hash = await hash(bytes)
      if let id = name.id, hash != id {
        result.damaged.append(name)
        continue
      }
      // The damaged one has the same name; it must go before its like can come.
      if let id = state.withLock({ $0.files[name] }) { try await delete(ObjectName(.data, id)) }
      try await add(name, bytes)
      result.made += 1
      progress(number + 1, wanted.count)
    }
    if removesStale {
      for name in report.stale {
        try await remove(name)
        result.removed += 1
      }
    }
    try await flush()
    if removesStale { try await compact() }
    return result
  }

  private func hash(_ bytes: [UInt8]) async -> Digest {
    await pool.run { bytes.withUnsafeBytes { PairedDigest.of($0) } }
  }
}
