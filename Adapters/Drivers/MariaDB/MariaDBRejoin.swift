import Core
import DriverKit
import Glibc
import IO

/// Making a follower of whatever a member is.
extension MariaDBMember {
  /// First by taking back what was never acknowledged, which the engine does itself when it recovers as a standby; and if the
  /// primary doesn't have what is left, by a copy of the primary that takes the place of the data.
  package func rejoin(_ primary: MemberName) async throws(DriverError) {
    if await running() != nil { try await stop(inOrder: false) }
    let memory = try await remembered()
    if memory.copying != nil { return try await copy(primary) }
    if memory.role != .standby {
      // Evidence first: what only this member has is about to be undone.
      try await KeptCopies(of: driver.dataDirectory, limit: settings.keptCopies).keep(
        at: environment.time.now(), on: environment.pool)
    }
    try await remember {
      $0.role = .standby
      $0.following = primary
    }
    try await bringUp(recovering: .deposed)
    do throws(DriverError) {
      try await countOwnCommits()
      try await attach(to: primary, try await look())
    } catch {
      guard case .logGap = error else { throw error }
      try await stop(inOrder: true)
      try await copy(primary)
    }
  }

  /// A new copy beside, made whole, then in the place of what is here, which is kept. Begun anew after a crash.
  private func copy(_ primary: MemberName) async throws(DriverError) {
    guard let command = settings.copyCommand, let peer = settings.peers.first(where: { $0.name == primary }) else {
      throw .unsupported(
        "\(settings.name) has what \(primary) hasn't, or lacks what \(primary) doesn't have any more, and no copy command is "
          + "set to begin anew with")
    }
    try await remember { $0.copying = primary }
    let target = driver.dataDirectory + ".salvor-copy"
    try await system { () throws(SystemFailure) in
      try Files.removeTree(target)
      try Files.createDirectory(target, mode: 0o700)
    }
    try await receive(command, from: peer, into: target)
    try await ServerCommand(
      executable: try driver.program("mariadb-backup"),
      arguments: ["--no-defaults", "--prepare", "--target-dir=\(target)"], user: nil
    ).run()
    let gtid = try await driver.blocking { () throws(DriverError) in
      try BaseCopy(describedIn: target, isLogged: true).gtid
    }
    if let user = try driver.serverUser(driver.dataDirectory) {
      try await ServerCommand(
        executable: "chown", arguments: ["-R", "\(user.userID):\(user.groupID)", target], user: nil
      ).run()
    }
    try await ServerCommand(executable: "sync", arguments: ["-f", target], user: nil).run()
    let directory = driver.dataDirectory
    try await system { () throws(SystemFailure) in
      try Files.exchange(target, directory)
      try Files.synchronizeDirectory(Files.parent(of: directory))
    }
    try await KeptCopies(of: directory, limit: settings.keptCopies).adopt(
      target, at: environment.time.now(), on: environment.pool)
    try await bringUp(recovering: .standby)
    guard GTIDPosition(gtid) != nil else { throw .corrupt("the copy says that it stands at '\(gtid)'") }
    try await run("SET GLOBAL gtid_slave_pos = '\(gtid)'")
    try await attach(to: primary, try await look())
    try await remember { $0.copying = nil }
  }

  /// The operator's own command knows how the primary's machine is reached.
  private func receive(
    _ command: String, from peer: MemberAddress, into target: String
  ) async throws(DriverError) {
    let variables = [
      "SALVOR_PRIMARY": peer.name.text, "SALVOR_PRIMARY_HOST": peer.host, "SALVOR_PRIMARY_PORT": String(peer.port),
      "COPY": command, "TARGET": target,
    ]
    let result: (code: Int32, said: String)
    do throws(SystemFailure) {
      result = try await environment.pool.run { () throws(SystemFailure) in
        let output = try unlinkedFile()
        let process = try OwnProcess.start(
          ["bash", "-o", "pipefail", "-c", "eval \"$COPY\" | mbstream -x -C \"$TARGET\""], output: output.descriptor,
          variables: variables)
        return (process.wait(), try output.lastText(1 << 14))
      }
    } catch { throw DriverError(error) }
    guard result.code == 0 else {
      throw .engineFailed("the copy command ended with code \(result.code)", log: lastLines(result.said))
    }
  }

  private func system(_ body: @escaping @Sendable () throws(SystemFailure) -> Void) async throws(DriverError) {
    do throws(SystemFailure) { try await environment.pool.run(body) } catch { throw DriverError(error) }
  }
}
