import Core
import DriverKit
import Glibc
import IO

extension NATSDriver {
  /// Paths of one restore: an account's directory in the server's store is swapped, and nothing else.
  struct Place: Sendable {
    var store: String
    var account: String
    var workspace: String

    var live: String { "\(store)/jetstream/\(account)" }
    var swap: PathSwap { PathSwap(live: live, workspace: workspace) }
    var proof: String { "\(workspace)/proof" }
    /// Where a log's bytes are put meanwhile, and the messages of streams that it changes.
    var log: String { "\(workspace)/log" }
    var rewritten: String { "\(workspace)/rewritten" }
    /// What was proved, written before the state counts as whole.
    var ready: String { "\(workspace)/ready" }
  }

  /// What an earlier try left: the state, and the digest of its content.
  private struct Ready: Codable {
    var state: RestoredState
    var digest: ContentDigest
  }

  func place(_ request: RestoreRequest) throws(DriverError) -> Place {
    guard let store = configuration.storeDirectory else {
      throw .badOption(
        store: configuration.store, option: "storeDirectory", why: "is required for a restore: the server's 'store_dir'"
      )
    }
    let live = "\(store)/jetstream/\(configuration.account)"
    return Place(store: store, account: configuration.account, workspace: request.workspace(beside: live))
  }

  // MARK: Before

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
      let layout = request.capture.facts["layout"].flatMap { EngineVersion($0) }
      let captured = EngineVersion(request.capture.version)
      if ![layout, captured].allSatisfy({ $0.map { $0.isAtLeast(2, 9) && installed.reads($0) } ?? false }) {
        add(.engineVersion(captured: request.capture.version, found: installed.description))
      }
    } catch { add(error) }
    let needed = request.capture.sizeBytes
    findings += await environment.pool.run {
      // A store that was lost altogether has no `jetstream` yet; then that is what will be made.
      let parent = "\(place.store)/jetstream"
      let swap = Files.exists(parent) ? place.swap : PathSwap(live: parent, workspace: place.workspace)
      return swap.precheck(needsBytes: needed)
    }
    if await isServing(), !configuration.canStart {
      add(.serverRunning("the server at \(peer), with no 'start' command or 'configFile' to bring it up again,"))
    }
    return findings
  }

  // MARK: Beside

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
    let pool = environment.pool
    let earlier = try await pool.run { () throws(DriverError) -> Ready? in
      guard try !place.swap.isSwapped() else {
        throw .engineFailed(
          "restore \(request.id) has already been swapped in; undo the swap or release it first", log: "")
      }
      guard try place.swap.isComplete() else { return nil }
      return Self.ready(place)
    }
    if let earlier, earlier.state.position == request.capture.position || request.replay != nil { return earlier.state }
    guard let captured = request.capture.facts["account"], StreamInfo.isName(captured) else {
      throw .corrupt("the snapshot doesn't say which account it is of")
    }
    try await clear(place)
    let description = try await description(request)
    do throws(AnyFailure) {
      try await request.source.materialise(
        TreePath("jetstream").appending(FileName(captured)), at: place.swap.incomplete, progress: request.progress)
    } catch {
      throw error.isCancellation ? .cancelled : .system(.init(error.report))
    }
    let streams = try await pool.run { () throws(DriverError) in try StreamFiles.read(place.swap.incomplete) }
    guard streams == description.streams else {
      throw .corrupt("the captured streams are not those that the capture describes")
    }
    var rewriting: StreamRewriting?
    if let replay = request.replay {
      let history = try await read(replay, from: request.capture, description, spill: place.log)
      rewriting = try await pool.run { () throws(DriverError) in
        try StreamRewriting(history, in: place.rewritten, log: place.log)
      }
    }
    let contents = try await contents(
      of: place.swap.incomplete, streams, provedIn: place.proof, interruption: interruption
    ) { [rewriting] server, name throws(WireError) in
      if let rewriting { return try rewriting.rewrite(name, from: server) }
      return try server.digest(of: name)
    }
    for stream in streams {
      guard
        let (was, found) = description.contents[stream.name].flatMap({ was in contents[stream.name].map { (was, $0) } })
      else { throw .corrupt("stream \(stream.name) is not described") }
      guard was.messages == found.messages, was.digest.isEmpty || was.digest == found.digest else {
        throw .corrupt(
          "stream \(stream.name) has \(found.messages) messages, \(found.first) to \(found.last), and had \(was.messages), "
            + "\(was.first) to \(was.last)\(was.messages == found.messages ? "; their content differs" : "")")
      }
    }
    if let rewriting {
      return try await goForward(rewriting, place, request.capture.position, interruption)
    }
    let messages = contents.values.reduce(0) { $0 + $1.messages }
    let consumers = streams.reduce(0) { $0 + $1.consumers.count }
    return try await complete(
      place, request.capture.position, try ContentDigest(streams, contents),
      proofs: [
        "nats-server loaded \(messages) messages in \(streams.count) streams",
        description.contents.values.contains { !$0.digest.isEmpty }
          ? "every message's sequence, time, subject, headers and payload" : "messages per stream",
        "signatures of \(streams.count) streams' and \(consumers) consumers' settings",
      ])
  }

  /// Puts what the log made of the streams in the place of what was captured, and has a server read it.
  private func goForward(
    _ rewriting: StreamRewriting, _ place: Place, _ mark: LogPosition, _ interruption: Interruption
  ) async throws(DriverError) -> RestoredState {
    let account = place.swap.incomplete
    let (streams, expected, proof) = try await environment.pool.run { () throws(DriverError) in
      try rewriting.finish(in: account)
    }
    let lasts = rewriting.lasts
    let found = try await contents(of: account, streams, provedIn: place.proof, interruption: interruption) {
      server, name throws(WireError) in
      // A number that was given and is not to be given again, though nothing is left under it.
      if let last = lasts[name] {
        try server.call("STREAM.MSG.DELETE.\(name)", ["seq": .integer(last)])
      }
      return try server.digest(of: name)
    }
    for stream in streams where found[stream.name] != expected[stream.name] {
      throw .corrupt(
        "stream \(stream.name) has \(found[stream.name]?.messages ?? 0) messages, and by the log it has "
          + "\(expected[stream.name]?.messages ?? 0); or their content differs")
    }
    let again = try await environment.pool.run { () throws(DriverError) in try StreamFiles.read(account) }
    guard again == streams else { throw .corrupt("the streams' settings are not those of the log") }
    let messages = found.values.reduce(0) { $0 + $1.messages }
    return try await complete(
      place, rewriting.history.reached(from: mark), try ContentDigest(streams, found),
      proofs: [
        "nats-server loaded \(messages) messages in \(streams.count) streams",
        "every message's sequence, time, subject, headers and payload, as copy and log have them", proof,
      ])
  }

  private func complete(
    _ place: Place, _ position: LogPosition, _ digest: ContentDigest, proofs: [String]
  ) async throws(DriverError) -> RestoredState {
    let pool = environment.pool
    let runAs = configuration.runAs
    let size = try await pool.run { () throws(DriverError) -> Int64 in
      do throws(SystemFailure) { return try Self.settle(place, runAs) } catch { throw DriverError(error) }
    }
    let state = RestoredState(position: position, sizeBytes: max(1, size), proofs: proofs)
    let ready = Ready(state: state, digest: digest)
    try await pool.run { () throws(DriverError) in
      do { try Files.replace(place.ready, with: try CanonicalJSON.encode(ready)) } catch { throw DriverError(error) }
      try place.swap.complete()
    }
    return state
  }

  private static func ready(_ place: Place) -> Ready? {
    guard let bytes = try? Files.read(place.ready, limitBytes: 256 << 20) else { return nil }
    return try? CanonicalJSON.decode(Ready.self, from: bytes)
  }

  private func description(_ request: RestoreRequest) async throws(DriverError) -> Description {
    let bytes: [UInt8]
    do throws(AnyFailure) {
      bytes = try await request.source.contents(of: Description.name, limitBytes: Description.limitBytes)
    } catch {
      throw error.isCancellation ? .cancelled : .system(.init(error.report))
    }
    guard let description = try? CanonicalJSON.decode(Description.self, from: bytes) else {
      throw .corrupt("\(Description.name) is not what a capture writes")
    }
    return description
  }

  /// Removes leftovers; makes the store's directory where the disk was lost with it.
  private func clear(_ place: Place) async throws(DriverError) {
    let runAs = configuration.runAs
    try await environment.pool.run { () throws(DriverError) in
      do throws(SystemFailure) {
        let parent = Files.parent(of: place.live)
        if !Files.exists(parent) {
          try Files.createDirectory(parent, mode: 0o750)
          if let owner = try Self.owner(of: place.store, runAs) { _ = chown(parent, owner.user, owner.group) }
        }
        try Files.removeTree(place.ready)
        try Files.removeTree(place.proof)
        try Files.removeTree(place.log)
        try Files.removeTree(place.rewritten)
        try Files.removeTree(place.swap.beside)
      } catch { throw DriverError(error) }
      try place.swap.prepare()
    }
  }

  private struct Owner {
    var user: uid_t
    var group: gid_t
  }

  /// `runAs`, or who owns the store; `nil` if files can't be given away.
  private static func owner(of directory: String, _ runAs: String?) throws(SystemFailure) -> Owner? {
    guard geteuid() == 0 else { return nil }
    if let runAs {
      guard let account = Account(named: runAs) else { throw SystemFailure("getpwnam", path: runAs, number: ENOENT) }
      return Owner(user: account.user, group: account.group)
    }
    var status = stat()
    guard stat(directory, &status) == 0 else { return nil }
    return Owner(user: status.st_uid, group: status.st_gid)
  }

  /// Gives everything to the server's user and makes it durable.
  ///
  /// - Returns: Its size in bytes.
  private static func settle(_ place: Place, _ runAs: String?) throws(SystemFailure) -> Int64 {
    let root = place.swap.incomplete
    let owner = try owner(of: Files.exists(place.live) ? place.live : Files.parent(of: place.live), runAs)
    var size: Int64 = 0
    for entry in [TreeEntry?.none] + (try TreeReader.scan(root).map { $0 }) {
      let path = entry.map { "\(root)/\($0.path)" } ?? root
      let isDirectory = entry?.metadata.kind ?? .directory == .directory
      guard isDirectory || entry?.metadata.kind == .regular else {
        throw SystemFailure("restore", path: path, number: EBADMSG)
      }
      let file = try File(path, O_RDONLY | O_NOFOLLOW | (isDirectory ? O_DIRECTORY : 0))
      if let owner, fchown(file.descriptor, owner.user, owner.group) != 0 { throw SystemFailure("chown", path: path) }
      try file.synchronize()
      if !isDirectory { size += Int64(try file.status().st_size) }
    }
    return size
  }

  func digestBeside(_ request: RestoreRequest) async throws(DriverError) -> ContentDigest? {
    let place = try place(request)
    return try await environment.pool.run { () throws(DriverError) -> ContentDigest in
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
}
