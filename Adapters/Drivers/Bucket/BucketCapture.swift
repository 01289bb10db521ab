import Core
import DriverKit
import IO
import Synchronization
import Web

/// One capture of a bucket.
///
/// Where versions are kept, the mark is a moment of the server's clock: what each key held then is told from the listing
/// of versions after it, however long that takes. Elsewhere objects are taken as they are found. See
/// `docs/decisions/0037-buckets.md`.
actor BucketCapture: CaptureSession {
  /// Content is cut so, that it can be taken over by the next capture.
  static let partBytes = 1 << 20

  private let driver: BucketDriver
  private let context: CaptureContext
  private var client: BucketClient?
  private var isVersioned = false
  private var hasLocks = false
  private var clock = ServerClock()
  /// Whether times of objects have fractions of seconds.
  private var hasFractions = false
  private var position: LogPosition?
  /// What was written later is not in the copy; `nil` where there is no telling.
  private var cut: Timestamp?
  private var earlier: EarlierCapture?
  private var known: [ObjectEntry] = []

  init(_ driver: BucketDriver, _ context: CaptureContext) { (self.driver, self.context) = (driver, context) }

  private var configuration: BucketConfiguration { driver.configuration }
  private var time: any Timekeeper { driver.environment.time }
  private var scratch: String { "\(context.scratch)/bucket" }
  private var hasMoment: Bool { isVersioned && configuration.eventsFile == nil }

  // MARK: Before the mark

  func prepare() async throws(DriverError) {
    let client = try await driver.client()
    guard try await client.exists() else { throw .unreachable("\(client.location): there is no such bucket") }
    isVersioned = try await client.isVersioned()
    guard isVersioned || !configuration.takesVersions else {
      throw .unsupported("\(client.location) keeps no versions, and 'versions' is on")
    }
    hasLocks = try await client.locks().isEnabled
    let scratch = scratch
    try await driver.environment.pool.run { () throws(DriverError) in
      do throws(SystemFailure) { try Files.createDirectory(scratch, mode: 0o700) } catch { throw DriverError(error) }
    }
    if hasMoment {
      // What has fractions in one of so many has them in all.
      var seen = false
      try await client.list(driver.place.prefix, limit: configuration.pageCount) { listed throws(DriverError) in
        seen = seen || listed.modified.nanoseconds % 1_000_000_000 != 0
      }
      hasFractions = seen
      try await watch(client)
    }
    self.client = client
    do throws(AnyFailure) {
      if let found = try await context.earlier(), found.result.facts["layout"] == "1" {
        known = try await { () async throws(AnyFailure) -> [ObjectEntry] in
          do throws(DriverError) { return try await Manifest.read(found.tree) } catch { throw AnyFailure(error) }
        }()
        earlier = found
      }
    } catch {
      // No reason to fail: everything is read anew.
      if error.isCancellation || Task.isCancelled { throw .cancelled }
      (earlier, known) = (nil, [])
    }
  }

  /// Narrows down where the server's clock stands, until that is known to some milliseconds.
  private func watch(_ client: BucketClient) async throws(DriverError) {
    for _ in 0..<200 {
      let began = time.monotonicNanoseconds()
      let answer = try await client.send(.head, nil)
      let ended = time.monotonicNanoseconds()
      guard let date = ServerClock.date(answer.headers["date"]) else {
        throw .unsupported("\(client.location) doesn't tell the time, so a moment can't be named")
      }
      clock.saw(date, began: began, ended: ended)
      if clock.width < 30_000_000 || clock.isTorn { return }
      do { try await time.sleep(for: .milliseconds(10)) } catch { throw .cancelled }
    }
  }

  func hold(limit: Duration) async throws(DriverError) {}

  func mark() async throws(DriverError) -> LogPosition {
    guard client != nil else { throw .holdImpossible("the capture was not prepared") }
    guard hasMoment else {
      let found = LogPosition(kind: "time", value: time.now().description)
      position = found
      return found
    }
    let moment = clock.cut(
      at: time.monotonicNanoseconds(), skew: configuration.clockSkew, hasFractions: hasFractions)
    // Nobody may begin anything after this returns that the server would call earlier.
    while true {
      let earliest = clock.bounds(at: time.monotonicNanoseconds(), skew: configuration.clockSkew).earliest
      let missing = moment.nanoseconds - earliest
      if missing < 0 { break }
      do { try await time.sleep(for: .nanoseconds(missing + 1_000_000)) } catch { throw .cancelled }
    }
    cut = moment
    let found = LogPosition(kind: "time", value: moment.description, details: ["clock": "server"])
    position = found
    return found
  }

  func release() async -> Bool { false }

  func close() async {
    let scratch = scratch
    await driver.environment.pool.run { try? Files.removeTree(scratch) }
  }

  // MARK: After it

  /// What there is to take, in order of keys; of one key the oldest first.
  private struct Wanted: Sendable {
    var kind: ObjectEntry.Kind
    var key: ObjectKey
    var listed: Listed
  }

  func finish() async throws(DriverError) -> CaptureResult {
    guard let client, let position else { throw .holdImpossible("there is no mark to copy at") }
    let eventsEnd = try await eventsEnd()
    let (wanted, kept, sinceListing) = try await choose(client, eventsEnd)
    let paths = KeyPaths(wanted.filter { $0.kind == .object }.map(\.key) + kept.map(\.objectKey))
    let taking = Taking(
      driver: driver, client: client, context: context, scratch: scratch, earlier: earlier?.tree,
      known: Dictionary(known.map { ($0.stageName, $0) }) { $1 }, paths: paths, isVersioned: isVersioned,
      hasLocks: hasLocks, asksAgain: sinceListing == 0)
    try await sideBySide(Array(wanted.enumerated()), configuration.parallel) { item throws(DriverError) in
      try await taking.take(
        item.element.kind, item.element.key, item.element.listed, name: "object-\(item.offset)")
    }
    try await sideBySide(kept, configuration.parallel) { entry throws(DriverError) in try await taking.keep(entry) }
    var entries = taking.outcome.entries
    let order = Dictionary(wanted.enumerated().map { (key($0.element), $0.offset) }) { $1 }
    entries.sort { a, b in
      let (one, two) = (a.objectKey, b.objectKey)
      return one == two ? order[a.stageName, default: 0] < order[b.stageName, default: 0] : one < two
    }
    for (number, bytes) in try Manifest.parts(entries).enumerated() {
      try await taking.add(
        Manifest.directory.appending(FileName(Manifest.name(number))), bytes, modified: time.now())
    }
    var facts = [
      "layout": "1", "objects": "\(entries.count { $0.kind == .object })", "bucket": driver.place.bucket,
      "prefix": driver.place.prefix, "versioning": isVersioned ? "enabled" : "none",
      "objectLock": hasLocks ? "enabled" : "none", "reused": "\(taking.outcome.reused)",
      "sinceListing": "\(sinceListing)",
    ]
    if configuration.takesVersions { facts["versions"] = "\(entries.count { $0.kind != .object })" }
    facts["events"] = eventsEnd?.text
    let (sizeBytes, notes) = (taking.outcome.sizeBytes, taking.outcome.notes)
    return CaptureResult(
      version: "", position: position,
      contentDigest: context.wantsContentDigest ? ObjectEntry.digest(entries) : nil, sizeBytes: sizeBytes, facts: facts,
      notes: notes + (clock.isTorn ? ["the bucket's servers have clocks that differ; set 'clockSkew'"] : []))
  }

  private func key(_ wanted: Wanted) -> String {
    Digest.of(wanted.key.bytes + [0] + Array((wanted.listed.version ?? "").utf8)).hex
  }

  private func eventsEnd() async throws(DriverError) -> EventFile.Place? {
    guard let path = configuration.eventsFile else { return nil }
    // Before anything is listed: what is told of later is asked for next time.
    return try await driver.environment.pool.run { () throws(DriverError) in try EventFile(path: path).end() }
  }

  /// What is to be looked at, what stays as it was, and how many captures ago the bucket was listed.
  private func choose(
    _ client: BucketClient, _ eventsEnd: EventFile.Place?
  ) async throws(DriverError) -> (wanted: [Wanted], kept: [ObjectEntry], sinceListing: Int64) {
    if let path = configuration.eventsFile, let eventsEnd, let facts = earlier?.result.facts,
      let from = facts["events"].flatMap({ EventFile.Place($0) }),
      let before = facts["sinceListing"].flatMap({ Int64($0) }), before >= 0, before + 1 < configuration.listEvery,
      facts["bucket"] == driver.place.bucket, facts["prefix"] == driver.place.prefix, facts["versions"] == nil,
      facts["versioning"] == (isVersioned ? "enabled" : "none")
    {
      let bucket = driver.place.bucket
      let keys = try await driver.environment.pool.run { () throws(DriverError) in
        try EventFile(path: path).keys(from: from, to: eventsEnd, bucket: bucket)
      }
      if let keys {
        let own = Dictionary(
          keys.compactMap { key in driver.own(key).map { ($0, key) } }, uniquingKeysWith: { first, _ in first })
        let wanted = try await look(client, own)
        return (wanted, known.filter { own[$0.objectKey] == nil }, before + 1)
      }
    }
    return (try await list(client), [], 0)
  }

  /// What the named keys hold now.
  private func look(_ client: BucketClient, _ keys: [ObjectKey: ObjectKey]) async throws(DriverError) -> [Wanted] {
    let found = Mutex<[Wanted]>([])
    let isVersioned = isVersioned
    try await sideBySide(Array(keys), configuration.parallel) { pair throws(DriverError) in
      let (own, whole) = pair
      var current: Listed?
      if isVersioned {
        try await client.listVersions(whole.text, isKey: true, limit: 1) { listed throws(DriverError) in
          current = listed
        }
      } else {
        try await client.list(whole.text, limit: 1) { listed throws(DriverError) in
          if listed.key == whole { current = listed }
        }
      }
      guard let current, !current.isMarker else { return }
      found.withLock { $0.append(Wanted(kind: .object, key: own, listed: current)) }
    }
    return found.withLock { $0 }.sorted { $0.key < $1.key }
  }

  private func list(_ client: BucketClient) async throws(DriverError) -> [Wanted] {
    var result: [Wanted] = []
    if !isVersioned {
      try await client.list(driver.place.prefix) { listed throws(DriverError) in
        if let key = driver.own(listed.key) { result.append(Wanted(kind: .object, key: key, listed: listed)) }
      }
    } else {
      for (key, versions) in try await history(client) {
        // What came after the mark is not there; what it hid is.
        let there = versions.filter { version in cut.map { version.modified <= $0 } ?? true }
        guard let first = there.first else { continue }
        if !first.isMarker { result.append(Wanted(kind: .object, key: key, listed: first)) }
        guard configuration.takesVersions else { continue }
        for version in there.dropFirst(first.isMarker ? 0 : 1) {
          result.append(Wanted(kind: version.isMarker ? .marker : .version, key: key, listed: version))
        }
      }
    }
    // Listed with the newest first; kept as it happened.
    result.reverse()
    var seen: Set<String> = []
    for wanted in result where !seen.insert(key(wanted)).inserted {
      throw .engineFailed("\(client.location) lists \(wanted.key) twice", log: "")
    }
    return result.enumerated().sorted { a, b in
      a.element.key == b.element.key ? a.offset < b.offset : a.element.key < b.element.key
    }.map(\.element)
  }
}

extension BucketCapture {
  /// All versions and delete markers of every key of the store, the newest first.
  private func history(_ client: BucketClient) async throws(DriverError) -> [ObjectKey: [Listed]] {
    var result: [ObjectKey: [Listed]] = [:]
    var (last, isSplit) = (ObjectKey?.none, false)
    try await client.listVersions(driver.place.prefix) { listed throws(DriverError) in
      if let last, listed.key < last { isSplit = true }
      last = listed.key
      if let key = driver.own(listed.key) { result[key, default: []].append(listed) }
    }
    guard isSplit else { return result }
    // A server that lists markers behind all versions: only times tell what came first.
    return result.mapValues { versions in
      versions.enumerated().sorted { a, b in
        if a.element.isLatest != b.element.isLatest { return a.element.isLatest }
        return a.element.modified == b.element.modified
          ? a.offset < b.offset : a.element.modified > b.element.modified
      }.map(\.element)
    }
  }
}

/// Takes objects into the sink, several at a time.
final class Taking: Sendable {
  private struct State {
    var entries: [ObjectEntry] = []
    var sizeBytes: Int64 = 0
    var reused = 0
    var notes: [String] = []
    var unsaid = 0
    var untold: [String] = []
  }

  private let driver: BucketDriver
  private let client: BucketClient
  private let context: CaptureContext
  private let reader: ObjectReader
  private let earlier: (any EarlierTree)?
  private let known: [String: ObjectEntry]
  private let paths: KeyPaths
  private let isVersioned: Bool
  private let hasLocks: Bool
  /// Tags and locks change without a trace in the listing.
  private let asksAgain: Bool
  private let state = Mutex(State())

  init(
    driver: BucketDriver, client: BucketClient, context: CaptureContext, scratch: String, earlier: (any EarlierTree)?,
    known: [String: ObjectEntry], paths: KeyPaths, isVersioned: Bool, hasLocks: Bool, asksAgain: Bool
  ) {
    (self.driver, self.client, self.context) = (driver, client, context)
    (self.earlier, self.known, self.paths) = (earlier, known, paths)
    (self.isVersioned, self.hasLocks, self.asksAgain) = (isVersioned, hasLocks, asksAgain)
    reader = ObjectReader(
      client: client, pool: driver.environment.pool, scratch: scratch, rangeBytes: driver.configuration.rangeBytes)
  }

  var outcome: (entries: [ObjectEntry], sizeBytes: Int64, reused: Int, notes: [String]) {
    state.withLock { state in
      var notes =
        state.notes + (state.unsaid > 0 ? ["\(state.unsaid) more objects vanished before they were read"] : [])
      if let first = state.untold.first {
        notes.append("the server doesn't tell the tags of \(state.untold.count) objects, such as \(first)")
      }
      return (state.entries, state.sizeBytes, state.reused, notes)
    }
  }

  func take(_ kind: ObjectEntry.Kind, _ key: ObjectKey, _ listed: Listed, name: String) async throws(DriverError) {
    var entry = ObjectEntry(
      kind: kind, key: key.text, path: "", size: listed.size, etag: listed.etag, modified: listed.modified,
      version: listed.version, sha256: nil, metadata: ObjectMetadata())
    if kind == .marker { return state.withLock { $0.entries.append(entry) } }
    entry.path = kind == .object ? paths.path(key) : KeyPaths.versionPath(key, listed.version ?? "")
    let version = isVersioned ? listed.version : nil
    if let before = known[entry.stageName], entry.isUnchanged(since: before), let parts = await parts(of: before) {
      entry.sha256 = before.sha256
      entry.metadata = before.metadata
      if asksAgain {
        try await readTags(of: listed.key, version, into: &entry.metadata)
        if hasLocks {
          guard let head = try await client.head(listed.key, version: version) else {
            return try await gone(key, listed)
          }
          entry.metadata.lock = ObjectMetadata(head).lock
        }
      }
      return try await add(entry, parts)
    }
    let object: ReadObject
    switch try await reader.read(listed.key, version: version, size: listed.size, name: name) {
    case .gone: return try await gone(key, listed)
    case .read(let found): object = found
    }
    if object.etag != listed.etag || object.size != listed.size {
      // What has a version of its own can't be replaced.
      guard version == nil else {
        throw .corrupt("\(key) at \(client.location) is not what its version was listed as")
      }
      (entry.etag, entry.size) = (object.etag, object.size)
      entry.modified = object.modified ?? entry.modified
    }
    entry.sha256 = object.sha256
    entry.metadata = object.metadata
    entry.metadata.storageClass = listed.storageClass ?? object.metadata.storageClass
    try await readTags(of: listed.key, version, into: &entry.metadata)
    try await add(entry, object.open)
  }

  /// Of an object that nothing was heard of since.
  func keep(_ before: ObjectEntry) async throws(DriverError) {
    var entry = before
    entry.path = paths.path(before.objectKey)
    if let parts = await parts(of: before) { return try await add(entry, parts) }
    let listed = Listed(
      key: driver.whole(before.objectKey), size: before.size, etag: before.etag, modified: before.modified,
      version: before.version, storageClass: before.metadata.storageClass)
    try await take(.object, before.objectKey, listed, name: "kept-\(before.stageName)")
  }

  /// What the copy from before is made of; `nil` if it isn't all there.
  private func parts(of before: ObjectEntry) async -> [Digest]? {
    if before.size == 0 { return [] }
    guard let file = try? await earlier?.file(TreePath(before.path), cutEvery: BucketCapture.partBytes),
      file.size == before.size
    else { return nil }
    return file.parts
  }

  private func readTags(of key: ObjectKey, _ version: String?, into metadata: inout ObjectMetadata)
    async throws(DriverError)
  {
    guard driver.configuration.takesTags else { return }
    if let tags = try await client.tags(key, version: version) {
      metadata.tags = tags
    } else {
      state.withLock { $0.untold.append(key.description) }
    }
  }

  /// Deleted since it was listed: or a server that can't give what it lists.
  private func gone(_ key: ObjectKey, _ listed: Listed) async throws(DriverError) {
    var isThere = false
    if isVersioned {
      try await client.listVersions(listed.key.text, isKey: true) { found throws(DriverError) in
        if found.version == listed.version { isThere = true }
      }
    } else {
      try await client.list(listed.key.text, limit: 1) { found throws(DriverError) in
        if found.key == listed.key { isThere = true }
      }
    }
    if isThere { throw .engineFailed("\(client.location) lists \(key) and doesn't give it", log: "") }
    guard !isVersioned || driver.configuration.eventsFile != nil else {
      throw .logGap(
        "\(key) at \(client.location) was there at the mark, and its version was removed before it was read")
    }
    state.withLock { state in
      if state.notes.count < 100 {
        state.notes.append("\(key) vanished before it was read and is not in the copy")
      } else {
        state.unsaid += 1
      }
    }
  }

  // MARK: The sink

  private func add(_ entry: ObjectEntry, _ parts: [Digest]) async throws(DriverError) {
    if parts.isEmpty { return try await add(entry, { MemorySource([]) }) }
    let stored = try await sinking { () async throws(AnyFailure) in
      try await self.context.sink.add(
        TreePath(entry.path), Self.metadata(entry), partBytes: BucketCapture.partBytes, parts: parts.map { $0 },
        content: nil)
    }
    state.withLock { $0.reused += 1 }
    try note(entry, stored)
  }

  private func add(_ entry: ObjectEntry, _ open: @escaping OpenSource) async throws(DriverError) {
    let stored = try await sinking { () async throws(AnyFailure) in
      try await self.context.sink.add(
        TreePath(entry.path), Self.metadata(entry), cutting: .fixed(bytes: BucketCapture.partBytes), content: open)
    }
    try note(entry, stored)
  }

  func add(_ path: TreePath, _ bytes: [UInt8], modified: Timestamp) async throws(DriverError) {
    let stored = try await sinking { () async throws(AnyFailure) in
      try await self.context.sink.add(
        path, FileMetadata(kind: .regular, permissions: 0o600, size: Int64(bytes.count), modified: modified),
        cutting: .content
      ) { MemorySource(bytes) }
    }
    state.withLock { $0.sizeBytes += stored.size }
  }

  private static func metadata(_ entry: ObjectEntry) -> FileMetadata {
    FileMetadata(kind: .regular, permissions: 0o600, size: entry.size, modified: entry.modified)
  }

  private func sinking(_ body: () async throws(AnyFailure) -> StoredFile) async throws(DriverError) -> StoredFile {
    do throws(AnyFailure) { return try await body() } catch { throw error.isCancellation ? .cancelled : .sink(error) }
  }

  private func note(_ entry: ObjectEntry, _ stored: StoredFile) throws(DriverError) {
    guard stored.size == entry.size else {
      throw .engineFailed("\(entry.objectKey) became another on the way to the repository", log: "")
    }
    let done = state.withLock { state in
      state.entries.append(entry)
      state.sizeBytes += stored.size
      return state.sizeBytes
    }
    context.progress(done)
  }
}
