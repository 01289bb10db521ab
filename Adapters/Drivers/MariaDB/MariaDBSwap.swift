import Core
import DriverKit
import IO

extension MariaDBDriver {
  func precheck(_ request: RestoreRequest) async throws(DriverError) -> [Finding] {
    var findings: [Finding] = []
    func find(_ error: DriverError) { findings.append(Finding(error.report)) }
    let captured = request.capture.version
    let installed = await installedVersion()
    if installed.map({ ServerFacts.series($0) }) != ServerFacts.series(captured) {
      find(.engineVersion(captured: captured, found: installed ?? "none"))
    }
    do throws(DriverError) {
      _ = try RestoreFacts(request.capture.facts)
      _ = try program("mariadb-backup")
    } catch { find(error) }
    let layout = RestoreLayout(request, dataDirectory: dataDirectory)
    findings += await environment.pool.run { layout.swap.precheck(needsBytes: request.capture.sizeBytes) }
    if stopCommand == "none", await environment.pool.run({ isLive(dataDirectory) }) {
      find(.serverRunning("the server on \(dataDirectory)"))
    }
    do throws(DriverError) {
      // An absent directory is created with the captured owner; a name nobody knows can't be helped.
      if runAs != nil { _ = try serverUser(dataDirectory) }
    } catch { find(error) }
    return findings
  }

  func swapIn(_ request: RestoreRequest) async throws(DriverError) {
    let layout = RestoreLayout(request, dataDirectory: dataDirectory)
    try await requireStopped(layout)
    guard try await outcome(layout) != nil else {
      throw .unsupported("nothing that was proved stands beside \(dataDirectory)")
    }
    try await blocking { () throws(DriverError) in try layout.swap.swapIn() }
  }

  func swapOut(_ request: RestoreRequest) async throws(DriverError) {
    let layout = RestoreLayout(request, dataDirectory: dataDirectory)
    try await requireStopped(layout)
    try await blocking { () throws(DriverError) in try layout.swap.swapOut(isRecorded: request.isSwapRecorded) }
  }

  func discardKept(_ request: RestoreRequest) async throws(DriverError) {
    let layout = RestoreLayout(request, dataDirectory: dataDirectory)
    try await endBeside(layout)
    try await blocking { () throws(DriverError) in
      try layout.swap.discard()
      removeSockets(layout)
    }
  }

  private func requireStopped(_ layout: RestoreLayout) async throws(DriverError) {
    for path in [dataDirectory, layout.swap.beside] where await environment.pool.run({ isLive(path) }) {
      throw .serverRunning("the server on \(path)")
    }
  }
}
