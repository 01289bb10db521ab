import Core
import DriverKit
import IO
import Telemetry

/// The machine as one process sees it: clocks, chance, threads, variables, and where state is kept.
package struct Machine: Sendable {
  package var time: any Timekeeper
  package var randomness: any Randomness
  package var pool: BlockingPool
  package var environment: [String: String]
  /// This machine's name, as snapshots and points carry it.
  package var name: String
  /// Journal, logs of services, keys and evidence.
  package var stateDirectory: String
  /// What is reached from here is a drill's own: nothing that is done to it is done to production.
  package var isDrill = false
  /// Takes a line for the log. Never a secret.
  package var log: @Sendable (String) -> Void

  package init(
    time: any Timekeeper = SystemTime(), randomness: any Randomness = SystemRandomness(),
    pool: BlockingPool = .shared, environment: [String: String], name: String, stateDirectory: String,
    log: @escaping @Sendable (String) -> Void = { _ in }
  ) {
    self.time = time
    self.randomness = randomness
    self.pool = pool
    self.environment = environment
    self.name = name
    self.stateDirectory = stateDirectory
    self.log = log
  }

  /// Where state is kept unless told otherwise: `$SALVOR_STATE`, `$XDG_STATE_HOME/salvor`, `~/.local/state/salvor`.
  package static func defaultStateDirectory(_ environment: [String: String]) -> String {
    if let path = environment["SALVOR_STATE"], !path.isEmpty { return path }
    if let path = environment["XDG_STATE_HOME"], !path.isEmpty { return path + "/salvor" }
    return (environment["HOME"] ?? "/root") + "/.local/state/salvor"
  }

  var secrets: SecretResolver { SecretResolver(environment: environment, pool: pool) }

  var driverEnvironment: DriverEnvironment {
    let secrets = secrets
    return DriverEnvironment(time: time, randomness: randomness, pool: pool) { reference throws(AnyFailure) in
      try await secrets.resolve(reference)
    }
  }

  func path(_ relative: String) -> String { "\(stateDirectory)/\(relative)" }
}
