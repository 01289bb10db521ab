import Core
import DriverKit
import Glibc
import IO

extension EtcdDriver {
  /// Paths of one restore: the member's whole data directory is swapped.
  struct Place: Sendable {
    var live: String
    var workspace: String
    var swap: PathSwap { PathSwap(live: live, workspace: workspace) }
    var captured: String { "\(workspace)/captured" }
    var proof: String { "\(workspace)/proof" }
    /// What was proved, written before the state counts as whole.
    var ready: String { "\(workspace)/ready" }
  }

  private struct Ready: Codable {
    var state: RestoredState
    var digest: ContentDigest?
  }

  func place(_ request: RestoreRequest) throws(DriverError) -> Place {
    guard let live = configuration.dataDirectory else {
      throw .badOption(store: configuration.store, option: "dataDirectory", why: "is required for a restore")
    }
    return Place(live: live, workspace: request.workspace(beside: live))
  }

  func precheck(_ request: RestoreRequest) async throws(DriverError) -> [Finding] {
    var findings: [Finding] = []
    func add(_ error: DriverError) { findings.append(Finding(error.report)) }
    let place: Place
    do throws(DriverError) { place = try self.place(request) } catch {
      add(error)
      return findings
    }
    do throws(DriverError) {
      let installed = try await installedVersion()
      let captured = EngineVersion(request.capture.version)
      // A server takes the data of its own series and of the one before.
      let reads = captured.map { $0.isAtLeast(3, 4) && installed.isAtLeast($0.numbers[0], $0.numbers[1]) } ?? false
      if !reads { add(.engineVersion(captured: request.capture.version, found: installed.description)) }
    } catch { add(error) }
    // The snapshot, the directory made of it, and one more to prove it.
    let (needed, overflow) = max(0, request.capture.sizeBytes).multipliedReportingOverflow(by: 3)
    findings += await environment.pool.run { place.swap.precheck(needsBytes: overflow ? .max : needed) }
    if await isServing(), !configuration.canStart {
      add(.serverRunning("the server at \(peer), with no 'start' command or 'configFile' to bring it up again,"))
    }
    return findings
  }

  func restoreBeside(_ request: RestoreRequest) async throws(DriverError) -> RestoredState {
    let place = try place(request)
    let interruption = Interruption()
    return try await interruption.during { () throws(DriverError) in
      try await self.restore(request, place, interruption)
    }
  }

  private func restore(
    _ request: RestoreRequest, _ place: Place, _ interruption: Interruption
  ) async throws(DriverError) -> RestoredState {
    let (pool, runAs) = (environment.pool, configuration.runAs)
    let earlier = try await pool.run { () throws(DriverError) -> Ready? in
      guard try !place.swap.isSwapped() else {
        throw .engineFailed(
          "restore \(request.id) has already been swapped in; undo the swap or release it first", log: "")
      }
      guard try place.swap.isComplete() else { return nil }
      return Self.ready(place)
    }
    if let earlier, earlier.state.position == request.capture.position { return earlier.state }
    try await pool.run { () throws(DriverError) in
      do throws(SystemFailure) {
        for path in [place.ready, place.captured, place.proof, place.swap.beside] { try Files.removeTree(path) }
      } catch { throw DriverError(error) }
      try place.swap.prepare()
    }
    do throws(AnyFailure) {
      try await request.source.materialise(TreePath(), at: place.captured, progress: request.progress)
    } catch {
      throw error.isCancellation ? .cancelled : .system(.init(error.report))
    }
    let file = "\(place.captured)/\(EtcdCapture.file)"
    guard await pool.run({ Files.exists(file) }) else {
      throw .corrupt("\(EtcdCapture.file) is missing from the snapshot")
    }
    let found = try await inspect(file, in: place.workspace, interruption: interruption)
    let facts = request.capture.facts
    guard facts["revision"] == String(found.revision), facts["keys"] == String(found.keys),
      facts["hash"] == String(found.hash)
    else { throw .corrupt("the snapshot is of revision \(found.revision) with hash \(found.hash), and was another") }
    let digest = try await proof(
      of: file, revision: found.revision, in: place.proof, interruption: interruption)
    if let expected = request.capture.contentDigest, let digest, digest != expected {
      throw .corrupt("the restored keys are not those that were captured: \(digest.differences(from: expected))")
    }
    try await lay(
      file, at: place.swap.incomplete, name: configuration.memberName, peerURL: configuration.peerURL,
      token: configuration.clusterToken, in: place.workspace, interruption: interruption)
    let size = try await pool.run { () throws(DriverError) -> Int64 in
      do throws(SystemFailure) {
        try Files.removeTree(place.captured)
        return try Self.settle(place, runAs)
      } catch { throw DriverError(error) }
    }
    var proofs = ["etcdctl: hash \(found.hash), revision \(found.revision)"]
    if let keys = digest?.parts["keys"]?.count {
      proofs.append("etcd served \(keys) keys of revision \(found.revision), each read")
    } else {
      proofs.append("etcd started on it")
    }
    let ready = Ready(
      state: RestoredState(position: request.capture.position, sizeBytes: size, proofs: proofs), digest: digest)
    try await pool.run { () throws(DriverError) in
      do { try Files.replace(place.ready, with: try CanonicalJSON.encode(ready)) } catch { throw DriverError(error) }
      try place.swap.complete()
    }
    return ready.state
  }

  private static func ready(_ place: Place) -> Ready? {
    guard let bytes = try? Files.read(place.ready, limitBytes: 1 << 20) else { return nil }
    return try? CanonicalJSON.decode(Ready.self, from: bytes)
  }

  /// Gives everything to the server's user and makes it durable.
  ///
  /// - Returns: Its size in bytes.
  private static func settle(_ place: Place, _ runAs: String?) throws(SystemFailure) -> Int64 {
    let root = place.swap.incomplete
    var owner: (user: uid_t, group: gid_t)?
    if geteuid() == 0 {
      var status = stat()
      if let runAs {
        guard let account = Account(named: runAs) else { throw SystemFailure("getpwnam", path: runAs, number: ENOENT) }
        owner = (account.user, account.group)
      } else if stat(place.live, &status) == 0 || stat(Files.parent(of: place.live), &status) == 0 {
        owner = (status.st_uid, status.st_gid)
      }
    }
    var size: Int64 = 0
    let entries = try TreeReader.scan(root)
    for (path, kind) in [(root, FileKind.directory)] + entries.map({ ("\(root)/\($0.path)", $0.metadata.kind) }) {
      guard kind == .regular || kind == .directory else { throw SystemFailure("restore", path: path, number: EBADMSG) }
      let file = try File(path, O_RDONLY | O_NOFOLLOW)
      if let owner, fchown(file.descriptor, owner.user, owner.group) != 0 { throw SystemFailure("chown", path: path) }
      try file.synchronize()
      if kind == .regular { size += Int64(try file.status().st_size) }
    }
    return size
  }

  func digestBeside(_ request: RestoreRequest) async throws(DriverError) -> ContentDigest? {
    let place = try place(request)
    return try await environment.pool.run { () throws(DriverError) -> ContentDigest? in
      guard try place.swap.isComplete(), let ready = Self.ready(place) else {
        throw .engineFailed("nothing lies beside \(place.live)", log: "")
      }
      return ready.digest
    }
  }

  // MARK: In place

  func swapIn(_ request: RestoreRequest) async throws(DriverError) {
    let place = try place(request)
    try await refuseWhileServing()
    try await environment.pool.run { () throws(DriverError) in
      let isSwapped = try place.swap.isSwapped()
      let isComplete = try place.swap.isComplete()
      guard isSwapped || isComplete && Self.ready(place) != nil else {
        throw .engineFailed("nothing was restored beside \(place.live)", log: "")
      }
      try place.swap.swapIn()
    }
  }

  func swapOut(_ request: RestoreRequest) async throws(DriverError) {
    let place = try place(request)
    if try await environment.pool.run({ () throws(DriverError) in try place.swap.isSwapped() }) {
      try await refuseWhileServing()
    }
    try await environment.pool.run { () throws(DriverError) in
      try place.swap.swapOut(isRecorded: request.isSwapRecorded)
    }
  }

  func discardKept(_ request: RestoreRequest) async throws(DriverError) {
    let place = try place(request)
    try await environment.pool.run { () throws(DriverError) in try place.swap.discard() }
  }

  private func refuseWhileServing() async throws(DriverError) {
    if await isServing() { throw .serverRunning("the server at \(peer)") }
  }

  // MARK: Starting and stopping

  /// Whether somebody on this machine listens where the server should be, or one elsewhere answers.
  func isServing() async -> Bool {
    let (port, isLocal) = (configuration.address.port, configuration.isLocal)
    if isLocal { return await environment.pool.run { ListeningProcess.isListening(port: port) } }
    return (try? await withScratch { scratch throws(DriverError) in try await self.status(scratch) }) != nil
  }

  func start() async throws(DriverError) {
    if await !isServing() {
      if !configuration.startCommand.isEmpty {
        try await run(configuration.startCommand, what: "the 'start' command")
      } else if let file = configuration.configFile {
        let (words, runAs) = ([configuration.binary, "--config-file", file], configuration.runAs)
        try await environment.pool.run { () throws(DriverError) in
          do throws(SystemFailure) { try OwnProcess.launch(words, runAs: runAs) } catch {
            throw .engineFailed("\(words[0]) can't be run", log: error.message)
          }
        }
      } else {
        throw .unsupported(
          "store \(configuration.store) has neither a 'start' command nor a 'configFile' to start it with")
      }
    }
    let limit = environment.time.monotonicNanoseconds() + 60_000_000_000
    while true {
      do throws(DriverError) {
        _ = try await withScratch { scratch throws(DriverError) in try await self.status(scratch) }
        return
      } catch {
        guard case .unreachable = error, environment.time.monotonicNanoseconds() < limit else { throw error }
      }
      do { try await environment.time.sleep(for: .milliseconds(25)) } catch { throw DriverError(error) }
    }
  }

  func stop() async throws(DriverError) {
    guard await isServing() else { return }
    let (port, isLocal) = (configuration.address.port, configuration.isLocal)
    let pid = await environment.pool.run { isLocal ? ListeningProcess.find(port: port) : nil }
    if !configuration.stopCommand.isEmpty {
      try await run(configuration.stopCommand, what: "the 'stop' command")
    } else {
      guard let pid else {
        throw .unsupported(
          "store \(configuration.store) has no 'stop' command, and no process on this machine is seen to listen on port "
            + "\(port)")
      }
      guard kill(pid, SIGTERM) == 0 else { throw DriverError(SystemFailure("kill", path: "process \(pid)")) }
    }
    let limit = environment.time.monotonicNanoseconds() + 60_000_000_000
    while environment.time.monotonicNanoseconds() < limit {
      let isThere = await environment.pool.run { pid.flatMap { ProcessStatus(pid: $0) }?.isAlive ?? false }
      if await !isServing(), !isThere { return }
      do { try await environment.time.sleep(for: .milliseconds(10)) } catch { throw DriverError(error) }
    }
    throw .serverRunning("after 60 s the server at \(peer)")
  }

  private func run(_ words: [String], what: String) async throws(DriverError) {
    try await OwnProcess.succeed(words, what: what, on: environment.pool)
  }
}
