import Core
import IO
import Vault
import Web

/// Opens `rclone:remote:path`: whatever rclone reaches, by a `rclone serve restic` of our own.
///
/// The remote is one of rclone's configuration, or a path of this machine. `SALVOR_RCLONE_PROGRAM` names the program,
/// with words of its own if need be; `SALVOR_RCLONE_ARGS` what it is told to do; `SALVOR_RCLONE_TIMEOUT` how long it may
/// say nothing.
///
/// Source: rclone, "rclone serve restic"; restic, "Other Services via rclone".
package struct RcloneObjectStoreFactory: ObjectStoreFactory {
  package static let scheme = "rclone"
  package static let programVariable = "SALVOR_RCLONE_PROGRAM"
  package static let argumentsVariable = "SALVOR_RCLONE_ARGS"
  package static let timeoutVariable = "SALVOR_RCLONE_TIMEOUT"
  /// As restic's: without `--b2-hard-delete` that service would only hide what is deleted.
  package static let usualArguments = "serve restic --stdio --b2-hard-delete"

  private let environment: [String: String]
  private let time: any Timekeeper
  private let pool: BlockingPool
  private let log: @Sendable (String) -> Void

  /// - Parameter log: Takes each line that rclone says.
  package init(
    environment: [String: String], time: any Timekeeper, pool: BlockingPool, log: @escaping @Sendable (String) -> Void
  ) {
    (self.environment, self.time, self.pool, self.log) = (environment, time, pool, log)
  }

  package func open(_ location: String) throws(StoreError) -> any ObjectStore {
    guard !location.isEmpty, !location.hasPrefix("-"), location.unicodeScalars.allSatisfy({ $0.value >= 32 }) else {
      throw .location("a repository that rclone reaches is written rclone:remote:path")
    }
    // An on-the-fly remote with parameters is an argument that every user can read.
    guard !location.hasPrefix(":") || !location.prefix(while: { $0 != "/" }).contains(",") else {
      throw .location("parameters of a remote belong into rclone's configuration: name it with `rclone config`")
    }
    let program = try words(Self.programVariable, "rclone")
    let arguments = try words(Self.argumentsVariable, Self.usualArguments)
    let (pool, log) = (pool, log)
    let client = ChildWebClient(
      ChildProgram(program + arguments + [location], environment: childEnvironment), time: time,
      log: { log("rclone: \($0)") }
    ) { (start) async throws(WebFailure) in try await pool.run(start) }
    var pace = RESTPace()
    if let text = text(Self.timeoutVariable) {
      guard let limit = Duration(text: text), limit > .zero else {
        throw .location("\(Self.timeoutVariable) is a duration, such as 1m")
      }
      pace.stall = limit
      pace.base = max(pace.base, limit)
    }
    return RESTObjectStore("http://localhost/", client: client, pace: pace, location: "rclone:\(location)")
  }

  private func text(_ name: String) -> String? { environment[name].flatMap { $0.isEmpty ? nil : $0 } }

  private func words(_ variable: String, _ usual: String) throws(StoreError) -> [String] {
    guard let words = CommandWords.split(text(variable) ?? usual), !words.isEmpty else {
      throw .location("\(variable) is not a command: check its quotes")
    }
    return words
  }

  /// Ours, for rclone's variables and those of the services it knows; without the repository's secrets, and without
  /// what would make it ask its only client for a password.
  private var childEnvironment: [String: String] {
    environment.filter { name, _ in
      !name.hasPrefix("RESTIC_") && !name.hasPrefix("SALVOR_")
        && !["RCLONE_USER", "RCLONE_PASS", "RCLONE_HTPASSWD", "RCLONE_ADDR", "RCLONE_BASEURL"].contains(name)
    }
  }
}
