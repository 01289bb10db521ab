import Core
import DriverKit
import Glibc
import IO

extension RabbitMQDriver {
  /// Paths of one restore: the node's directory is swapped, and its feature flags with it.
  struct Place: Sendable {
    var live: String
    var workspace: String
    var swap: PathSwap { PathSwap(live: live, workspace: workspace, companions: [NodeFiles.flags]) }
    var proof: String { "\(workspace)/proof" }
    /// What was proved, written before the state counts as whole.
    var ready: String { "\(workspace)/ready" }
  }

  /// What an earlier try left: the state, and the digest of its content.
  private struct Ready: Codable {
    var state: RestoredState
    var digest: ContentDigest
  }

  func place(_ request: RestoreRequest) -> Place {
    let live = configuration.dataDirectory
    return Place(live: live, workspace: request.workspace(beside: live))
  }

  // MARK: Before

  func precheck(_ request: RestoreRequest) async throws(DriverError) -> [Finding] {
    var findings: [Finding] = []
    func add(_ error: DriverError) { findings.append(Finding(error.report)) }
    let place = place(request)
    do throws(DriverError) { try requireNode(request) } catch { add(error) }
    do throws(DriverError) {
      let installed = try await installedVersion()
      if !(EngineVersion(request.capture.version).map { installed.reads($0) } ?? false) {
        add(.engineVersion(captured: request.capture.version, found: installed.description))
      }
    } catch { add(error) }
    // The state, and a copy of it for the proof.
    let (needed, overflow) = max(0, request.capture.sizeBytes).multipliedReportingOverflow(by: 2)
    findings += await environment.pool.run { place.swap.precheck(needsBytes: overflow ? .max : needed) }
    if await isServing(), !configuration.canStart {
      add(.serverRunning("the server at \(peer), with no 'start' command or 'configFile' to bring it up again,"))
    }
    return findings
  }

  /// The files have the node's name in them.
  private func requireNode(_ request: RestoreRequest) throws(DriverError) {
    guard let captured = request.capture.facts["node"], RabbitMQConfiguration.isNode(captured) else {
      throw .corrupt("the snapshot doesn't say which node it is of")
    }
    guard captured == configuration.node else {
      throw .badOption(
        store: configuration.store, option: "dataDirectory",
        why: "is node \(configuration.node)'s, and the capture is of \(captured): a node's files have its name")
    }
  }

  // MARK: Beside

  func restoreBeside(_ request: RestoreRequest) async throws(DriverError) -> RestoredState {
    try requireNode(request)
    let place = place(request)
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
    if let earlier, earlier.state.position == request.capture.position { return earlier.state }
    guard request.capture.position.kind == "moment", let moment = Timestamp(request.capture.position.value) else {
      throw .corrupt("the snapshot doesn't say which moment it is of")
    }
    try await pool.run { () throws(DriverError) in
      do throws(SystemFailure) {
        for path in [place.ready, place.proof, place.swap.beside, place.swap.beside + NodeFiles.flags] {
          try Files.removeTree(path)
        }
      } catch { throw DriverError(error) }
      try place.swap.prepare()
    }
    let (description, flags) = try await described(request)
    do throws(AnyFailure) {
      try await request.source.materialise(
        TreePath([FileName(configuration.node)]), at: place.swap.incomplete, progress: request.progress)
    } catch {
      throw error.isCancellation ? .cancelled : .system(.init(error.report))
    }
    try await pool.run { () throws(DriverError) in
      do throws(SystemFailure) {
        try Files.replace(place.swap.incomplete + NodeFiles.flags, with: flags)
        // Nobody's links are followed by a server of ours.
        _ = try settleTree(place.swap.incomplete, owner: nil, hasLinks: false)
      } catch { throw DriverError(error) }
      try NodeFiles(place.swap.incomplete).requireAlone()
    }
    let contents = try await contents(
      of: place.swap.incomplete, flags, node: configuration.node, at: moment, provedIn: place.proof,
      interruption: interruption)
    try Self.compare(contents.described, with: description)
    try await complete(place.swap.incomplete, configuration.node, as: place.live)
    let owner = try serverUser(
      store: configuration.store, engine: "RabbitMQ", runAs: configuration.runAs,
      owning: [place.live, Files.parent(of: place.live)])
    let size = try await pool.run { () throws(DriverError) -> Int64 in
      do throws(SystemFailure) { return try Self.settle(place, owner) } catch { throw DriverError(error) }
    }
    let messages = description.queues.values.reduce(0) { $0 + $1.messages }
    let state = RestoredState(
      position: request.capture.position, sizeBytes: max(1, size),
      proofs: [
        "rabbitmq-server started on a copy of it and gave \(messages) messages of \(description.queues.count) queues",
        "every message's place, exchange, routing key, properties, headers and body",
        "definitions: "
          + description.defined.sorted { $0.key < $1.key }.map { "\($0.value) \($0.key)" }.joined(separator: ", "),
      ])
    let ready = Ready(state: state, digest: contents.described.digest)
    try await pool.run { () throws(DriverError) in
      do { try Files.replace(place.ready, with: try CanonicalJSON.encode(ready)) } catch { throw DriverError(error) }
      try place.swap.complete()
    }
    return state
  }

  private static func compare(_ found: Description, with was: Description) throws(DriverError) {
    let differences = found.digest.differences(from: was.digest)
    guard let first = differences.first else { return }
    guard let one = found.queues[first], let other = was.queues[first] else {
      throw .corrupt("the restored node differs from the captured one in \(differences.joined(separator: ", "))")
    }
    throw .corrupt(
      "queue \(first) has \(one.messages) messages, and had \(other.messages)"
        + (one.messages == other.messages ? "; their content or order differs" : ""))
  }

  private static func ready(_ place: Place) -> Ready? {
    guard let bytes = try? Files.read(place.ready, limitBytes: 256 << 20) else { return nil }
    return try? CanonicalJSON.decode(Ready.self, from: bytes)
  }

  private func described(_ request: RestoreRequest) async throws(DriverError) -> (Description, flags: [UInt8]) {
    func contents(_ path: TreePath, _ limit: Int) async throws(DriverError) -> [UInt8] {
      do throws(AnyFailure) { return try await request.source.contents(of: path, limitBytes: limit) } catch {
        throw error.isCancellation ? .cancelled : .system(.init(error.report))
      }
    }
    let bytes = try await contents(Description.name, Description.limitBytes)
    guard let description = try? CanonicalJSON.decode(Description.self, from: bytes) else {
      throw .corrupt("\(Description.name) is not what a capture writes")
    }
    guard description.node == configuration.node else {
      throw .corrupt("\(Description.name) is of node \(description.node)")
    }
    let flags = try await contents(TreePath([FileName(configuration.node + NodeFiles.flags)]), 1 << 20)
    return (description, flags)
  }

  /// Gives everything to the server's user and makes it durable.
  ///
  /// - Returns: Its size in bytes.
  private static func settle(_ place: Place, _ owner: SystemUser?) throws(SystemFailure) -> Int64 {
    let root = place.swap.incomplete
    var size: Int64 = 0
    for path in [root + NodeFiles.flags, root] where Files.exists(path) {
      size += try settleTree(path, owner: owner, hasLinks: false)
    }
    for path in [root, root + NodeFiles.flags] + (try TreeReader.scan(root).map { "\(root)/\($0.path)" })
    where Files.exists(path) {
      try File(path, O_RDONLY | O_NOFOLLOW).synchronize()
    }
    return size
  }

  func digestBeside(_ request: RestoreRequest) async throws(DriverError) -> ContentDigest? {
    let place = place(request)
    return try await environment.pool.run { () throws(DriverError) -> ContentDigest in
      guard try place.swap.isComplete(), let ready = Self.ready(place) else {
        throw .engineFailed("nothing lies beside \(place.live)", log: "")
      }
      return ready.digest
    }
  }

  // MARK: In place

  func swapIn(_ request: RestoreRequest) async throws(DriverError) {
    let place = place(request)
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
    let place = place(request)
    if try await environment.pool.run({ () throws(DriverError) in try place.swap.isSwapped() }) {
      try await refuseWhileServing()
    }
    try await environment.pool.run { () throws(DriverError) in
      try place.swap.swapOut(isRecorded: request.isSwapRecorded)
    }
  }

  func discardKept(_ request: RestoreRequest) async throws(DriverError) {
    let place = place(request)
    try await environment.pool.run { () throws(DriverError) in try place.swap.discard() }
  }

  /// A node that is going down listens no more, and still writes.
  private func refuseWhileServing() async throws(DriverError) {
    if await isServing() { throw .serverRunning("the server at \(peer)") }
    let live = configuration.dataDirectory
    let users = await environment.pool.run { OpenFiles.users(below: live) }
    if let user = users.first { throw .serverRunning("\(user), which has files of \(live) open,") }
  }
}
