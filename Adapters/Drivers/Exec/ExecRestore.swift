import Core
import DriverKit
import IO

#if canImport(Glibc)
  import Glibc
#endif

/// Where one restore's pieces are.
struct RestoreLayout: Sendable {
  /// This restore's own directory.
  var directory: String
  /// `nil` where the program swaps.
  var swap: PathSwap?

  /// The captured tree, as it was captured.
  var source: String { directory + "/source" }
  /// Where the program builds.
  var target: String { swap?.incomplete ?? directory + "/target" }
  /// Written when the program has proved it; with it there is nothing left to do.
  var outcome: String { directory + "/restored.json" }

  init(_ driver: ExecDriver, _ request: RestoreRequest) {
    if let state = driver.state {
      directory = request.workspace(beside: state)
      swap = PathSwap(live: state, workspace: directory)
    } else {
      directory = "\(driver.workspace ?? "/tmp")/.salvor-\(driver.store)-\(request.id)"
    }
  }
}

extension ExecDriver {
  func blocking<T: Sendable>(_ body: @escaping @Sendable () throws(DriverError) -> T) async throws(DriverError) -> T {
    try await environment.pool.run(body)
  }

  private func fields(_ request: RestoreRequest, _ layout: RestoreLayout) -> [String: JSONValue] {
    [
      "restore": .string(request.id), "capture": Wire.json(Wire.Capture(request.capture)),
      "directory": .string(layout.directory),
    ]
  }

  func precheck(_ request: RestoreRequest) async throws(DriverError) -> [Finding] {
    let layout = RestoreLayout(self, request)
    let place = layout.swap ?? PathSwap(live: layout.directory + "/state", workspace: layout.directory)
    let parent = workspace
    var found = await environment.pool.run {
      layout.swap != nil
        ? place.precheck(needsBytes: request.capture.sizeBytes)
        : PathSwap(live: (parent ?? "/tmp") + "/state", workspace: layout.directory)
          .precheck(needsBytes: request.capture.sizeBytes)
    }
    let answer = try await ask("precheck", fields(request, layout), as: Wire.Findings.self)
    found += answer.findings.map { Finding(DriverError($0).report) }
    return found
  }

  func restoreBeside(_ request: RestoreRequest) async throws(DriverError) -> RestoredState {
    let layout = RestoreLayout(self, request)
    if let done = try await outcome(layout) { return done }
    try await blocking { () throws(DriverError) in
      if let swap = layout.swap, try swap.isSwapped() {
        throw .unsupported("\(layout.directory) holds a state that was kept: give it up, or swap it out, first")
      }
      do throws(SystemFailure) {
        try Files.removeTree(layout.directory)
        try Files.createDirectory(layout.directory, mode: 0o700)
      } catch { throw DriverError(error) }
    }
    do throws(AnyFailure) {
      try await request.source.materialise(TreePath(), at: layout.source, progress: request.progress)
    } catch {
      if let inner = error.underlying as? DriverError { throw inner }
      throw error.isCancellation ? .cancelled : DriverError(error)
    }
    var fields = fields(request, layout)
    fields["source"] = .string(layout.source)
    fields["target"] = .string(layout.target)
    let restored = try await ask("restore.beside", fields, as: Wire.Restored.self, within: timeout)
    guard restored.position.position == request.capture.position else {
      throw .logGap("what was restored is at \(restored.position.position), not at \(request.capture.position)")
    }
    guard !restored.proofs.isEmpty else {
      throw .engineFailed("the program restored and proved nothing", log: "")
    }
    return try await blocking { () throws(DriverError) in
      do {
        guard try layout.swap == nil || Files.isThere(layout.target) else {
          throw DriverError.engineFailed("the program made nothing at \(layout.target)", log: "")
        }
        let size = try Files.isThere(layout.target) ? treeBytes(layout.target) : 0
        let state = RestoredState(
          position: request.capture.position, sizeBytes: size > 0 ? size : request.capture.sizeBytes,
          proofs: restored.proofs)
        try Files.removeTree(layout.source)
        try Files.replace(layout.outcome, with: try CanonicalJSON.encode(state))
        try layout.swap?.complete()
        return state
      } catch { throw DriverError(error) }
    }
  }

  private func outcome(_ layout: RestoreLayout) async throws(DriverError) -> RestoredState? {
    try await blocking { () throws(DriverError) in
      do {
        if let swap = layout.swap {
          let (isComplete, isSwapped) = (try swap.isComplete(), try swap.isSwapped())
          guard isComplete || isSwapped else { return nil }
        }
        guard try Files.isThere(layout.outcome) else { return nil }
        return try CanonicalJSON.decode(RestoredState.self, from: try Files.read(layout.outcome, limitBytes: 1 << 24))
      } catch { throw DriverError(error) }
    }
  }

  func digestBeside(_ request: RestoreRequest) async throws(DriverError) -> ContentDigest? {
    let layout = RestoreLayout(self, request)
    guard try await outcome(layout) != nil else {
      throw .unsupported("nothing is restored in \(layout.directory)")
    }
    var fields = fields(request, layout)
    let target = try await blocking { () throws(DriverError) in
      guard let swap = layout.swap else { return layout.target }
      return try swap.isComplete() ? swap.beside : swap.live
    }
    fields["target"] = .string(target)
    return try await ask("restore.digest", fields, as: Wire.Digested.self, within: timeout).contentDigest?.digest
  }

  func swapIn(_ request: RestoreRequest) async throws(DriverError) {
    let layout = RestoreLayout(self, request)
    guard try await outcome(layout) != nil else { throw .unsupported("nothing that was proved stands beside") }
    try await requireStopped()
    guard let swap = layout.swap else {
      var fields = fields(request, layout)
      fields["target"] = .string(layout.target)
      _ = try await ask("restore.swapIn", fields, as: Program.Nothing.self, within: timeout)
      return
    }
    try await blocking { () throws(DriverError) in try swap.swapIn() }
  }

  func swapOut(_ request: RestoreRequest) async throws(DriverError) {
    let layout = RestoreLayout(self, request)
    let isRecorded = request.isSwapRecorded
    if try await outcome(layout) == nil, !isRecorded { return }
    try await requireStopped()
    guard let swap = layout.swap else {
      var fields = fields(request, layout)
      fields["target"] = .string(layout.target)
      fields["recorded"] = .bool(isRecorded)
      _ = try await ask("restore.swapOut", fields, as: Program.Nothing.self, within: timeout)
      return
    }
    try await blocking { () throws(DriverError) in try swap.swapOut(isRecorded: isRecorded) }
  }

  func discardKept(_ request: RestoreRequest) async throws(DriverError) {
    let layout = RestoreLayout(self, request)
    _ = try await ask("restore.discard", fields(request, layout), as: Program.Nothing.self, within: timeout)
    try await blocking { () throws(DriverError) in
      if let swap = layout.swap { return try swap.discard() }
      do throws(SystemFailure) { try Files.removeTree(layout.directory) } catch { throw DriverError(error) }
    }
  }

  private func requireStopped() async throws(DriverError) {
    if try await ask("status", as: Wire.Status.self).running { throw .serverRunning("the server of store \(store)") }
    guard let state else { return }
    let users = await environment.pool.run {
      Files.isDirectory(state) ? OpenFiles.users(below: state) : OpenFiles.users(of: [state])
    }
    guard users.isEmpty else {
      throw .serverRunning("\(users.map(\.description).joined(separator: ", ")), which has files of \(state) open,")
    }
  }
}

/// Bytes in regular files at and below `path`. Blocks.
private func treeBytes(_ path: String) throws(SystemFailure) -> Int64 {
  var status = stat()
  guard lstat(path, &status) == 0 else { throw SystemFailure("stat", path: path) }
  switch status.st_mode & S_IFMT {
  case S_IFREG: return Int64(status.st_size)
  case S_IFDIR:
    var total: Int64 = 0
    for name in try Files.names(in: path) { total += try treeBytes("\(path)/\(name.lossyText)") }
    return total
  default: return 0
  }
}
