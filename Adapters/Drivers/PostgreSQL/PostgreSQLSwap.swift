import Core
import DriverKit
import IO

#if canImport(Glibc)
  import Glibc
#endif

extension PostgreSQLDriver {
  func precheck(_ request: RestoreRequest) async throws(DriverError) -> [Finding] {
    var findings: [Finding] = []
    func find(_ error: DriverError) { findings.append(Finding(error.report)) }
    do throws(DriverError) { try requirePrimary() } catch { find(error) }
    let captured = request.capture.version
    let major = Int(captured.prefix { $0.isNumber }) ?? 0
    let installed = await installedVersion(major)
    if Int(installed?.prefix { $0.isNumber } ?? "") != major {
      find(.engineVersion(captured: captured, found: installed ?? "none"))
    }
    do throws(DriverError) {
      let facts = try RestoreFacts(request.capture.facts)
      let layout = RestoreLayout(request, facts, dataDirectory: dataDirectory)
      findings += await environment.pool.run { place(layout, sizeBytes: request.capture.sizeBytes) }
    } catch { find(error) }
    if stopCommand == "none", isLive(dataDirectory) { find(.serverRunning("the server on \(dataDirectory)")) }
    do throws(DriverError) {
      // An absent directory is created with the captured owner; a name nobody knows can't be helped.
      if runAs != nil { _ = try serverUser(dataDirectory) }
    } catch { find(error) }
    return findings
  }

  /// Whether there is a place for everything, with room. Blocks.
  private func place(_ layout: RestoreLayout, sizeBytes: Int64) -> [Finding] {
    var findings: [Finding] = []
    let parent = Files.parent(of: dataDirectory)
    for directory in [parent]
      + layout.spaces.map({ Files.isDirectory($0.location) ? $0.location : Files.parent(of: $0.location) })
    {
      if access(directory, W_OK | X_OK) != 0 {
        findings.append(Finding(SystemFailure("write", path: directory).report))
      }
    }
    if let metadata = readMetadata(dataDirectory) {
      if case .symbolicLink = metadata.kind {
        findings.append(
          Finding(DriverError.unsupported("\(dataDirectory) is a symbolic link: name the directory itself").report))
      } else if let above = readMetadata(parent), above.device != metadata.device {
        findings.append(
          Finding(
            DriverError.unsupported(
              "\(dataDirectory) is a mount point, so nothing can be put beside it: keep the cluster in a directory below"
            ).report))
      }
    }
    if let free = try? Files.freeBytes(at: parent), free < sizeBytes {
      findings.append(Finding(SystemFailure("restore", path: parent, number: ENOSPC).report))
    }
    return findings
  }

  private func installedVersion(_ major: Int) async -> String? {
    guard let server = try? await program("postgres", major: major),
      let text = try? await ServerCommand(executable: server, arguments: ["--version"], user: nil).run()
    else { return nil }
    // postgres (PostgreSQL) 15.20 (Debian 15.20-0+deb12u1)
    return text.split(separator: " ").dropFirst(2).first.map { String($0.prefix { $0.isNumber || $0 == "." }) }
  }

  /// A standby's files are not the store's: what took their place would not be what the services talk to.
  func requirePrimary() throws(DriverError) {
    if let standby {
      throw .unsupported(
        "\(dataDirectory) is the standby's at \(standby): restore where the primary is, with a catalog that names its data directory and no 'standby'; then make the standby anew"
      )
    }
  }

  func swapIn(_ request: RestoreRequest) async throws(DriverError) {
    try requirePrimary()
    let layout = RestoreLayout(request, try RestoreFacts(request.capture.facts), dataDirectory: dataDirectory)
    try requireStopped(layout)
    guard try await outcome(layout) != nil else {
      throw .unsupported("nothing that was proved stands beside \(dataDirectory)")
    }
    try await blocking { () throws(DriverError) in
      do throws(SystemFailure) {
        if try Files.isThere(layout.data.beside) { try layout.link(layout.data.beside, toLive: true) }
      } catch { throw DriverError(error) }
      // The data directory last: with it the cluster is whole again.
      for space in layout.spaces { try space.swap.swapIn() }
      try layout.data.swapIn()
    }
  }

  func swapOut(_ request: RestoreRequest) async throws(DriverError) {
    let layout = RestoreLayout(request, try RestoreFacts(request.capture.facts), dataDirectory: dataDirectory)
    let isRecorded = request.isSwapRecorded
    // Without it nothing was ever proved there, so nothing was swapped; unless the record says otherwise.
    if try await outcome(layout) == nil, !isRecorded { return }
    try requireStopped(layout)
    try await blocking { () throws(DriverError) in
      // All or nothing: a tablespace that is lost is found before the data directory moves.
      for swap in layout.spaces.map(\.swap) { try swap.requireKept(isRecorded) }
      try layout.data.swapOut(isRecorded: isRecorded)
      for space in layout.spaces { try space.swap.swapOut(isRecorded: isRecorded) }
      do throws(SystemFailure) {
        if try Files.isThere(layout.data.beside) { try layout.link(layout.data.beside, toLive: false) }
      } catch { throw DriverError(error) }
    }
  }

  func discardKept(_ request: RestoreRequest) async throws(DriverError) {
    let layout = RestoreLayout(request, try RestoreFacts(request.capture.facts), dataDirectory: dataDirectory)
    if isLive(layout.data.beside) { try await stopServer(layout.data.beside, mode: "immediate") }
    try await blocking { () throws(DriverError) in
      for space in layout.spaces { try space.swap.discard() }
      try layout.data.discard()
    }
  }

  private func requireStopped(_ layout: RestoreLayout) throws(DriverError) {
    for path in [dataDirectory, layout.data.beside] where isLive(path) { throw .serverRunning("the server on \(path)") }
  }
}
