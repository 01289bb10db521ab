import Core
import DriverKit
import IO
import Vault

/// The log of one store in a repository: stretches written as they come, joined as they age, read back for a restore.
///
/// A stretch is an ordinary snapshot and exists once that does; what a crash leaves before it is for a prune. Joining copies
/// no content: the joined file consists of the same blobs. It is written first, and what it was joined from goes after.
package struct LogArchive: Sendable {
  /// Tag of the snapshots that are stretches of log.
  package static let tag = "salvor-log"
  /// WAL compresses well, and small pieces are all a quiet store has.
  static let pieceBytes = 1 << 20
  /// Files of a stretch that are written side by side.
  private static let width = 4

  let vault: Repository
  let store: StoreName
  let pool: BlockingPool

  package init(vault: Repository, store: StoreName, pool: BlockingPool) {
    (self.vault, self.store, self.pool) = (vault, store, pool)
  }

  // MARK: Reading

  package struct Listing: Sendable {
    package var spans: [StoredSpan]
    /// Told apart, never dropped in silence: each leaves a gap.
    package var unreadable: [(snapshot: String, Report)]

    package var chains: [LogChain] { Recovery.chains(of: spans) }
  }

  /// Every stretch of the store's log.
  ///
  /// - Parameters:
  ///   - snapshots: The repository's, if they were listed already.
  ///   - known: Stretches that were read before; they never change.
  package func list(
    in snapshots: [StoredSnapshot]? = nil, known: [Digest: StoredSpan] = [:]
  ) async throws(RecoveryError) -> Listing {
    let vault = vault
    let snapshots =
      if let snapshots { snapshots } else { try await vaulted { () async throws in try await vault.snapshots() } }
    var listing = Listing(spans: [], unreadable: [])
    // After the listing: what somebody else wrote is in indexes that this session has not seen.
    let isNew = snapshots.contains { $0.snapshot.tags.contains(Self.tag) && known[$0.id] == nil }
    if isNew { _ = try await vaulted { () async throws in try await vault.refreshIndex() } }
    for stored in snapshots {
      let tags = stored.snapshot.tags
      guard tags.contains(Self.tag), tags.contains("store:\(store)") else { continue }
      if let span = known[stored.id] {
        listing.spans.append(span)
        continue
      }
      do throws(RecoveryError) { listing.spans.append(try await read(stored)) } catch {
        if case .cancelled = error { throw error }
        // Joined meanwhile by whoever follows: what it was joined into is a snapshot of its own.
        if case .vault(let report) = error, !report.isDamage { throw error }
        listing.unreadable.append((stored.id.hex, error.report))
      }
    }
    return listing
  }

  /// The number of the newest stretch there is, whether it can be read or not; 0 if there is none.
  func lastNumber() async throws(RecoveryError) -> Int64 {
    Self.lastNumber(of: store, among: try await snapshots())
  }

  func snapshots() async throws(RecoveryError) -> [StoredSnapshot] {
    let vault = vault
    return try await vaulted { () async throws in try await vault.snapshots() }
  }

  /// By the tags alone: `log:17-42`.
  static func lastNumber(of store: StoreName, among snapshots: [StoredSnapshot]) -> Int64 {
    var last: Int64 = 0
    for stored in snapshots {
      let tags = stored.snapshot.tags
      guard tags.contains(tag), tags.contains("store:\(store)") else { continue }
      for tag in tags where tag.hasPrefix("log:") {
        let numbers = tag.dropFirst(4).split(separator: "-").map { Int64($0) }
        // One that leaves no room for others is no number of ours.
        if numbers.count == 2, let upper = numbers[1], upper < Int64.max / 2 { last = max(last, upper) }
      }
    }
    return last
  }

  private func read(_ stored: StoredSnapshot) async throws(RecoveryError) -> StoredSpan {
    let tree = SnapshotTree(reader: vault, root: stored.snapshot.tree, pool: pool)
    let store = store
    return try await vaulted {
      let bytes = try await tree.contents(of: "log.json", limitBytes: 64 << 20)
      let span = try CanonicalJSON.decode(LogSpan.self, from: bytes)
      guard span.store == store, FileName(untrusted: Array(span.stream.utf8)) != nil,
        (span.extents.map(\.file) + span.attachments).allSatisfy({ FileName(untrusted: Array($0.utf8)) != nil })
      else { throw RecoveryError.logDamaged(store, "snapshot \(stored.id.short) is tagged as another's") }
      return StoredSpan(snapshot: stored.id, tree: stored.snapshot.tree, span: span)
    }
  }

  /// Where a chain ends, with the last bytes of its last file.
  func end(of chain: LogChain) async throws(RecoveryError) -> LogEnd {
    var end = chain.end
    var (tail, place): ([UInt8], LogCursor) = ([], end.cursor)
    spans: for stored in chain.spans.reversed() {
      for extent in stored.span.extents.reversed() {
        guard extent.end == place, tail.count < LogEnd.tailBytes else { break spans }
        let tree = SnapshotTree(reader: vault, root: stored.tree, pool: pool)
        let (vault, path) = (vault, path(of: extent, in: stored.span))
        let before = tail
        tail = try await vaulted {
          var bytes = before
          for id in try await tree.node(at: path)?.content.reversed() ?? [] {
            if bytes.count >= LogEnd.tailBytes { break }
            bytes = try await vault.load(.data, id) + bytes
          }
          return bytes
        }
        guard extent.from > 0 else { break spans }
        place = LogCursor(extent.file, extent.from)
      }
    }
    end.tail = Array(tail.suffix(LogEnd.tailBytes))
    return end
  }

  // MARK: Writing

  /// A stretch whose content is on its way into the vault, and that nothing refers to yet.
  struct Prepared: Sendable {
    fileprivate let builder: SnapshotBuilder
    fileprivate var span: LogSpan
    /// What it was made from, without its bytes.
    let draft: LogBuffer.Draft
    let bytes: Int
  }

  /// Takes a stretch's content into the vault. The processor's part of ``save(_:number:driver:host:)``; that of another stretch
  /// can go on beside ``commit(_:number:)``.
  func prepare(
    _ draft: LogBuffer.Draft, driver: DriverName, host: String
  ) async throws(RecoveryError) -> Prepared {
    let span = LogSpan(
      store: store, driver: driver, host: host, numbers: 1...1, beginning: draft.beginning,
      stream: draft.stream, after: draft.after, end: draft.end, from: draft.from, to: draft.to,
      extents: draft.pieces.map(\.extent), attachments: draft.attachments.keys.sorted(), firstCommit: draft.firstCommit,
      lastCommit: draft.lastCommit, completeUntil: draft.completeUntil, receivedFrom: draft.receivedFrom,
      receivedTo: draft.receivedTo)
    let builder = builder()
    do {
      // A backlog is many files: they keep every processor busy.
      try await withThrowingTaskGroup(of: Void.self) { group in
        for (index, piece) in draft.pieces.enumerated() {
          if index >= Self.width { try await group.next() }
          let (path, parts) = (path(of: piece.extent, in: span), piece.parts)
          let metadata = metadata(span, Int(piece.extent.to - piece.extent.from))
          group.addTask {
            _ = try await builder.add(path, metadata, cutting: .fixed(bytes: Self.pieceBytes)) { PartsSource(parts) }
          }
        }
        try await group.waitForAll()
      }
      for (name, bytes) in draft.attachments.sorted(by: { $0.key < $1.key }) {
        _ = try await builder.add(path(ofAttached: name), metadata(span, bytes.count), cutting: .content) {
          MemorySource(bytes)
        }
      }
    } catch { throw .vault(AnyFailure(error).report) }
    var rest = draft
    (rest.pieces, rest.attachments) = ([], [:])
    return Prepared(builder: builder, span: span, draft: rest, bytes: draft.bytes)
  }

  /// Makes a stretch durable, whose content was taken before. Stretches become durable in their order, one after the other.
  ///
  /// - Throws: Then it may be in the repository or not; list again before the next is written.
  func commit(_ prepared: Prepared, number: Int64) async throws(RecoveryError) -> StoredSpan {
    var span = prepared.span
    span.numbers = number...number
    return try await finish(prepared.builder, span)
  }

  /// Makes a stretch durable.
  ///
  /// - Throws: Then it may be in the repository or not; list again before the next is written.
  func save(
    _ draft: LogBuffer.Draft, number: Int64, driver: DriverName, host: String
  ) async throws(RecoveryError) -> StoredSpan {
    try await commit(try await prepare(draft, driver: driver, host: host), number: number)
  }

  /// Joins stretches that go on from one another, and removes them once the joined one is durable.
  func join(_ spans: [StoredSpan]) async throws(RecoveryError) -> StoredSpan {
    guard var span = spans.first?.span else { throw .logDamaged(store, "nothing is to be joined") }
    for next in spans.dropFirst() { span = span.joined(with: next.span) }
    let builder = builder()
    let (vault, pool) = (vault, pool)
    do {
      var contents: [(extent: LogExtent, ids: [BlobID])] = []
      var attachments: [String: [BlobID]] = [:]
      for stored in spans {
        let tree = SnapshotTree(reader: vault, root: stored.tree, pool: pool)
        for extent in stored.span.extents {
          let ids = try await tree.node(at: path(of: extent, in: stored.span))?.content ?? []
          if extent.follows == nil, let last = contents.indices.last, contents[last].extent.file == extent.file,
            contents[last].extent.to == extent.from
          {
            contents[last].extent.to = extent.to
            contents[last].ids += ids
          } else {
            contents.append((extent, ids))
          }
        }
        for name in stored.span.attachments {
          guard let node = try await tree.node(at: path(ofAttached: name)) else {
            throw RecoveryError.logDamaged(store, "\(name) is not in snapshot \(stored.snapshot.short)")
          }
          attachments[name] = node.content
        }
      }
      guard contents.map(\.extent) == span.extents else {
        throw RecoveryError.logDamaged(store, "joined stretches would not be what they were joined from")
      }
      for (extent, ids) in contents {
        guard ids.reduce(0, { $0 + Int64(vault.length(.data, $1) ?? 0) }) == extent.to - extent.from else {
          throw RecoveryError.logDamaged(store, "\(extent.file)+\(extent.from) has another length than was recorded")
        }
        try builder.adopt(path(of: extent, in: span), metadata(span, 0), content: ids, from: vault)
      }
      for (name, ids) in attachments {
        try builder.adopt(path(ofAttached: name), metadata(span, 0), content: ids, from: vault)
      }
    } catch let error as RecoveryError { throw error } catch { throw .vault(AnyFailure(error).report) }
    let joined = try await finish(builder, span)
    for stored in spans { try await vaulted { () async throws in try await vault.forget(stored.snapshot) } }
    return joined
  }

  private func finish(_ builder: SnapshotBuilder, _ span: LogSpan) async throws(RecoveryError) -> StoredSpan {
    let (vault, store, metadata) = (vault, store, metadata(span, 0))
    return try await vaulted {
      let facts = try CanonicalJSON.encode(span, pretty: true)
      _ = try await builder.add("log.json", metadata, cutting: .content) { MemorySource(facts) }
      let tree = try await builder.finish()
      let id = try await vault.save(
        Snapshot(
          time: span.receivedTo, tree: tree.root, paths: ["/salvor-log/\(store)"], hostname: span.host,
          tags: [
            Self.tag, "store:\(store)", "driver:\(span.driver)",
            "log:\(span.numbers.lowerBound)-\(span.numbers.upperBound)",
          ]))
      return StoredSpan(snapshot: id, tree: tree.root, span: span)
    }
  }

  private func builder() -> SnapshotBuilder {
    SnapshotBuilder(writer: vault, polynomial: vault.config.chunkerPolynomial, pool: pool)
  }

  private func metadata(_ span: LogSpan, _ size: Int) -> FileMetadata {
    FileMetadata(kind: .regular, permissions: 0o600, size: Int64(size), modified: span.receivedTo)
  }

  // MARK: Layout

  /// A file's pieces are named by where they begin: put together by name, or each at its place, they are the file again.
  func path(of extent: LogExtent, in span: LogSpan) -> TreePath {
    let digits = String(extent.from)
    let padded = String(repeating: "0", count: max(0, 20 - digits.count)) + digits
    return TreePath([FileName(store.text), "log", FileName(span.stream), FileName(extent.file), FileName(padded)])
  }

  func path(ofAttached name: String) -> TreePath {
    TreePath([FileName(store.text), "attached", FileName(name)])
  }
}

extension Report {
  /// As where points are read: a store that does not answer has a code of its own.
  fileprivate var isDamage: Bool { !code.hasPrefix("STORE-") && !code.hasPrefix("IO-") }
}

extension LogArchive {
  /// Removes stretches that a joined one has taken the place of: a crash came between the two.
  func removeJoined(among spans: [StoredSpan]) async throws(RecoveryError) {
    let vault = vault
    for stored in spans {
      let numbers = stored.span.numbers
      let isJoined = spans.contains { other in
        let (theirs, isSame) = (other.span.numbers, other.snapshot == stored.snapshot)
        return !isSame && theirs.lowerBound <= numbers.lowerBound && numbers.upperBound <= theirs.upperBound
          && theirs.count > numbers.count && other.span.holds(stored.span)
      }
      if isJoined { try await vaulted { () async throws in try await vault.forget(stored.snapshot) } }
    }
  }
}
