import Core
import DriverKit
import IO
import Synchronization

/// A capture as a replica: a snapshot ahead of the hold, the command stream up to the mark.
///
/// See `docs/decisions/0004-redis-capture.md`. Calls come one after the other; what `close` may find half done is
/// guarded.
final class RedisCapture: CaptureSession {
  /// Names in the captured tree: what a server with default settings would call them.
  enum Names {
    static let directory: TreePath = "appendonlydir"
    static let base = "appendonly.aof.1.base.rdb"
    static let increment = "appendonly.aof.1.incr.aof"
    static let manifest = "appendonly.aof.manifest"
  }

  private struct State: Sendable {
    var control: Connection?
    var stream: StreamReader?
    var spill: File?
    var start: ReplicationLink.Start?
    var base: (bytes: Int64, digest: Digest)?
    var version: EngineVersion?
    var settings = ServerSettings()
    var canHold = true
    /// Monotonic nanoseconds before the pause was asked for, and how long it lasts.
    var pause: (since: Int64, limit: Duration)?
    var mark: Int64?
    /// Writers were paused when the mark was named, on the server they write to.
    var wasHeld = false
    var counts: [Int: KeyCount] = [:]
    var notes: [String] = []
  }

  private let driver: RedisDriver
  private let context: CaptureContext
  private let interruption = Interruption()
  private let state = Mutex(State())

  init(_ driver: RedisDriver, _ context: CaptureContext) { (self.driver, self.context) = (driver, context) }

  private var environment: DriverEnvironment { driver.environment }
  private var peer: String { driver.peer }
  private var frozenDirectory: String { "\(context.scratch)/frozen" }

  // MARK: Before the hold

  func prepare() async throws(DriverError) {
    try await interruption.during { () async throws(DriverError) in try await self.copyAhead() }
  }

  private func copyAhead() async throws(DriverError) {
    let control = try await driver.connect(interruption: interruption)
    state.withLock { $0.control = control }
    let info = try await driver.info(control)
    let version = try RedisDriver.version(info)
    let (settings, note) = try await driver.settings(control)
    state.withLock { state in
      state.version = version
      state.settings = settings
      if case .outside = RedisDriver.hold(info) { state.canHold = false }
      if let note { state.notes.append(note) }
    }
    let link = try await driver.connect(interruption: interruption)
    let peer = peer
    let start = try await environment.pool.run { () throws(DriverError) -> ReplicationLink.Start in
      do throws(WireError) { return try ReplicationLink.begin(link) } catch {
        throw error.driverError(at: peer, doing: "PSYNC")
      }
    }
    state.withLock { $0.start = start }
    try await copySnapshot(link, start)
    let path = "\(context.scratch)/stream"
    let spill = try await environment.pool.run { () throws(DriverError) -> File in
      do throws(SystemFailure) { return try File(path, O_RDWR | O_CREAT | O_TRUNC) } catch { throw DriverError(error) }
    }
    let stream = StreamReader(link, spill: spill)
    state.withLock { state in (state.stream, state.spill) = (stream, spill) }
    stream.start()
  }

  private func copySnapshot(_ link: Connection, _ start: ReplicationLink.Start) async throws(DriverError) {
    var copy: File?
    if context.wantsContentDigest {
      let directory = "\(frozenDirectory)/\(Names.directory)"
      copy = try await environment.pool.run { () throws(DriverError) -> File in
        do throws(SystemFailure) {
          try Files.createDirectory(directory, mode: 0o700)
          return try File("\(directory)/\(Names.base)", O_WRONLY | O_CREAT | O_TRUNC)
        } catch { throw DriverError(error) }
      }
    }
    let opened = Atomic<Bool>(false)
    let peer = peer
    try await add(Names.directory, .init(kind: .directory, permissions: 0o700, modified: environment.time.now()))
    try await add(Names.directory.appending(FileName(Names.base)), metadata(size: 0)) { [self, copy] in
      guard !opened.exchange(true, ordering: .relaxed) else {
        throw DriverError.logGap("the snapshot of \(peer) streams once and can't be read again")
      }
      return SnapshotSource(link, start.length, copy: copy) { bytes, digest in
        self.state.withLock { $0.base = (bytes, digest) }
        self.context.progress(bytes)
      }
    }
    guard state.withLock({ $0.base != nil }) else {
      throw .engineFailed("the sink did not read the snapshot to its end", log: "")
    }
  }

  // MARK: Hold, mark, release

  func hold(limit: Duration) async throws(DriverError) {
    guard state.withLock({ $0.canHold }) else { return }
    try await interruption.during { () async throws(DriverError) in try await self.pause(limit) }
  }

  private func pause(_ limit: Duration) async throws(DriverError) {
    guard let control = state.withLock({ $0.control }) else { throw .holdImpossible("prepare() has not been called") }
    let since = environment.time.monotonicNanoseconds()
    state.withLock { $0.pause = (since, limit) }
    do throws(DriverError) { try await ClientPause(driver, control).begin(limit) } catch {
      state.withLock { $0.pause = nil }
      throw error
    }
  }

  func mark() async throws(DriverError) -> LogPosition {
    let (control, start) = state.withLock { ($0.control, $0.start) }
    guard let control, let start else { throw .engineFailed("mark() without prepare()", log: "") }
    let info = try await ClientPause(driver, control).standing()
    guard let offset = info.integer("master_repl_offset"), info["master_replid"] == start.replicationID else {
      throw .logGap("\(peer) has another replication id than at the snapshot: it was restarted, or failed over")
    }
    guard offset >= start.offset else { throw .logGap("\(peer) went back from offset \(start.offset) to \(offset)") }
    let counts = info.keyspace
    state.withLock { state in
      state.mark = offset
      state.wasHeld = state.pause != nil && info["role"] == "master"
      state.counts = counts
    }
    return ClientPause.position(offset, start.replicationID, databases: counts.count)
  }

  func release() async -> Bool {
    let (control, pause, wasHeld, mark) = state.withLock { state in
      defer { state.pause = nil }
      return (state.control, state.pause, state.wasHeld, state.mark)
    }
    guard let control, let pause else { return false }
    let offset = await ClientPause(driver, control).end()
    let elapsed = Duration.nanoseconds(environment.time.monotonicNanoseconds() - pause.since)
    guard let offset, elapsed < pause.limit else { return false }
    // Someone else may have ended the pause: then there are writes after the mark.
    guard mark == nil || wasHeld else { return false }
    guard let mark, offset != mark else { return true }
    return await wasQuiet(from: mark, to: offset)
  }

  /// Whether the stream between two offsets holds nothing but the link's own commands.
  private func wasQuiet(from mark: Int64, to offset: Int64) async -> Bool {
    let (start, spill) = state.withLock { ($0.start, $0.spill) }
    guard let start, let spill, offset > mark, (try? await reach(offset)) != nil else { return false }
    let range = (mark - start.offset)..<(offset - start.offset)
    let summary = try? await environment.pool.run { () throws(DriverError) -> CommandScanner.Summary in
      var scanner = CommandScanner(spill, range)
      return try scanner.copy { _ throws(SystemFailure) in }
    }
    return summary?.commands == 0
  }

  // MARK: After it

  func finish() async throws(DriverError) -> CaptureResult {
    try await interruption.during { () async throws(DriverError) in try await self.cut() }
  }

  private func cut() async throws(DriverError) -> CaptureResult {
    let known = state.withLock { $0 }
    guard let mark = known.mark, let start = known.start, let base = known.base, let spill = known.spill,
      let stream = known.stream, let version = known.version
    else { throw .engineFailed("finish() without mark()", log: "") }
    try await reach(mark)
    await environment.pool.run { stream.stop() }

    let increment = "\(context.scratch)/\(Names.increment)"
    let length = mark - start.offset
    let (summary, digest) = try await environment.pool.run {
      () throws(DriverError) -> (CommandScanner.Summary, Digest) in
      let output: File
      do throws(SystemFailure) { output = try File(increment, O_RDWR | O_CREAT | O_TRUNC) } catch {
        throw DriverError(error)
      }
      var running = RunningDigest()
      var scanner = CommandScanner(spill, 0..<length)
      let summary = try scanner.copy { (bytes) throws(SystemFailure) in
        running.update(bytes)
        try output.write(bytes)
      }
      return (summary, running.finish())
    }
    let manifest = Array("file \(Names.base) seq 1 type b\nfile \(Names.increment) seq 1 type i\n".utf8)
    try await add(Names.directory.appending(FileName(Names.increment)), metadata(size: summary.bytes)) {
      try File(increment, O_RDONLY)
    }
    try await add(Names.directory.appending(FileName(Names.manifest)), metadata(size: Int64(manifest.count))) {
      MemorySource(manifest)
    }
    let size = base.bytes + summary.bytes + Int64(manifest.count)
    context.progress(size)

    var facts = Facts()
    facts.base = .init(bytes: base.bytes, digest: base.digest, offset: start.offset)
    facts.increment = .init(bytes: summary.bytes, digest: digest, offset: mark)
    facts.commands = summary.commands
    facts.databases = max(known.settings.databases, summary.highestDatabase + 1, (known.counts.keys.max() ?? 0) + 1)
    facts.counts = known.wasHeld ? known.counts : nil
    facts.settings = known.settings
    var notes = known.notes
    var content: ContentDigest?
    if context.wantsContentDigest {
      do throws(ProofUnavailable) {
        content = try await proveCopy(facts, increment, version)
      } catch {
        switch error {
        case .noServer(let why): notes.append("no content digest: \(why)")
        case .failed(let failure): throw failure
        }
      }
    }
    return CaptureResult(
      version: version.description,
      position: ClientPause.position(mark, start.replicationID, databases: known.counts.count),
      contentDigest: content, sizeBytes: size, facts: facts.encoded, notes: notes)
  }

  private enum ProofUnavailable: Error {
    case noServer(String)
    case failed(DriverError)
  }

  /// Loads the copy into a server of our own, compares what it holds with what the source said under the hold, and
  /// digests it.
  private func proveCopy(
    _ facts: Facts, _ increment: String, _ version: EngineVersion
  ) async throws(ProofUnavailable) -> ContentDigest {
    let installed: EngineVersion
    do throws(DriverError) { installed = try await driver.installedVersion() } catch {
      throw .noServer("\(driver.configuration.binary) can't be run on this machine")
    }
    guard installed.isAtLeast(7, 0), installed.reads(version) else {
      throw .noServer("the server is \(version), and \(installed) on this machine can't load its data")
    }
    let target = "\(frozenDirectory)/\(Names.directory)/\(Names.increment)"
    do throws(DriverError) {
      do throws(SystemFailure) { try Files.rename(increment, to: target) } catch { throw DriverError(error) }
      return try await driver.withScratchServer(
        at: frozenDirectory, increments: [Names.increment], databases: facts.databases, mode: .persistent
      ) { server throws(DriverError) in
        try await server.compare(with: facts.counts)
        return try await server.digest()
      }
    } catch { throw .failed(error) }
  }

  func close() async {
    let isHeld = state.withLock { $0.pause != nil }
    if isHeld { _ = await release() }
    let stream = state.withLock { $0.stream }
    if let stream { await environment.pool.run { stream.stop() } }
    state.withLock { state in
      state.control = nil
      state.stream = nil
      state.spill = nil
    }
    let scratch = context.scratch
    let leftovers = ["\(scratch)/stream", "\(scratch)/\(Names.increment)", frozenDirectory]
    await environment.pool.run {
      for path in leftovers { try? Files.removeTree(path) }
    }
  }

  // MARK: Parts

  /// Waits until the stream has been read up to `offset`.
  ///
  /// - Throws: ``DriverError/logGap(_:)`` if the stream ended before, or nothing came for 30 seconds.
  private func reach(_ offset: Int64) async throws(DriverError) {
    let (stream, start) = state.withLock { ($0.stream, $0.start) }
    guard let stream, let start else { throw .engineFailed("no replication stream", log: "") }
    var last: Int64 = -1
    var lastMoved = environment.time.monotonicNanoseconds()
    while true {
      let (bytes, failure) = stream.progress
      if bytes >= offset - start.offset { return }
      if let failure { throw failure }
      let now = environment.time.monotonicNanoseconds()
      if bytes != last { (last, lastMoved) = (bytes, now) }
      guard now - lastMoved < 30_000_000_000 else {
        throw .logGap("\(peer) sent nothing for 30 s, \(offset - start.offset - bytes) bytes before the mark")
      }
      do { try await environment.time.sleep(for: .milliseconds(2)) } catch { throw DriverError(error) }
    }
  }

  private func add(
    _ path: TreePath, _ metadata: FileMetadata, content: OpenSource? = nil
  ) async throws(DriverError) {
    do throws(AnyFailure) {
      _ = try await context.sink.add(path, metadata, cutting: .content, content: content)
    } catch {
      if let ours = error.underlying as? DriverError { throw ours }
      throw interruption.isSet || error.isCancellation ? .cancelled : .sink(error)
    }
  }

  private func metadata(size: Int64) -> FileMetadata {
    FileMetadata(kind: .regular, permissions: 0o600, size: size, modified: environment.time.now())
  }
}

#if canImport(Glibc)
  import Glibc
#endif
