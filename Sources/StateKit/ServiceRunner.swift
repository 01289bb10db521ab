import Core

/// Starts and stops the services of a system, and finds out whether one is ready to work.
package protocol ServiceRunner: Sendable {
  /// Starts a service; fine if it runs already. Returns once it was started, which is not yet "ready".
  func start(_ service: ServiceUnit) async throws(ServiceError) -> ServiceStart

  /// Stops a service and returns when it is gone; fine if it isn't running.
  func stop(_ service: ServiceUnit) async throws(ServiceError)

  func status(_ service: ServiceUnit) async throws(ServiceError) -> ServiceStatus

  /// Asks once.
  ///
  /// - Throws: ``ServiceError/notReady(_:check:why:)``.
  func evaluate(_ check: ReadyCheck, of service: ServiceName) async throws(ServiceError)

  /// Asks until every check has passed, each within its own attempts and interval; a service without checks is refused
  /// with ``ServiceError/noChecks(_:)``, for "could not check" is not "passed".
  func waitUntilReady(_ service: ServiceUnit) async throws(ServiceError) -> [ReadyEvidence]
}

/// All a runner needs to know about one service.
package struct ServiceUnit: Sendable, Equatable, Codable {
  package enum Mode: String, Sendable, Codable {
    /// The start command is the service: it keeps running, and is watched by its process.
    case daemon
    /// The start command starts the service and exits: `systemctl start …`.
    case oneshot
  }

  package var name: ServiceName
  package var mode: Mode
  package var start: ServiceCommand
  /// `nil` for a daemon: it is stopped by signal.
  package var stop: ServiceCommand?
  /// How long a daemon may take to end after SIGTERM before it is killed.
  package var stopTimeoutMilliseconds: Int64
  package var ready: [ReadyCheck]

  package init(
    name: ServiceName, mode: Mode, start: ServiceCommand, stop: ServiceCommand? = nil,
    stopTimeoutMilliseconds: Int64 = 10_000, ready: [ReadyCheck] = []
  ) {
    (self.name, self.mode, self.start, self.stop) = (name, mode, start, stop)
    (self.stopTimeoutMilliseconds, self.ready) = (stopTimeoutMilliseconds, ready)
  }
}

/// A program to run, without a shell.
package struct ServiceCommand: Sendable, Equatable, Codable {
  /// The program, by absolute path or found in `PATH`, and its arguments. Never a secret: others can read them.
  package var arguments: [String]
  /// Beside `PATH`, `HOME`, the locale and the time zone; nothing else of the runner's own environment is passed on.
  package var environment: [String: String]
  /// Likewise, each read when it is needed.
  package var secrets: [String: SecretReference]
  package var workingDirectory: String?
  /// Run as this user, by name; needs root.
  package var user: String?
  /// How long it may run, if it is to end.
  package var timeoutMilliseconds: Int64

  package init(
    _ arguments: [String], environment: [String: String] = [:], secrets: [String: SecretReference] = [:],
    workingDirectory: String? = nil, user: String? = nil, timeoutMilliseconds: Int64 = 60_000
  ) {
    (self.arguments, self.environment, self.secrets) = (arguments, environment, secrets)
    (self.workingDirectory, self.user, self.timeoutMilliseconds) = (workingDirectory, user, timeoutMilliseconds)
  }

  /// - Returns: `nil` if `line` has no words or an open quote. See ``CommandWords``.
  package init?(line: String) {
    guard let words = CommandWords.split(line), !words.isEmpty else { return nil }
    self.init(words)
  }
}

/// One question whose answer says whether a service works.
package struct ReadyCheck: Sendable, Equatable, Codable {
  package enum Probe: Sendable, Equatable, Codable {
    /// Exits with 0.
    case exec(ServiceCommand)
    /// Accepts a connection.
    case tcp(host: String, port: UInt16)
    /// Answers a GET with a status in the range and, if given, a body that contains the text.
    case http(url: String, status: ClosedRange<Int>, bodyContains: String?)
    /// The query's first value, as text, is the one expected; `nil` takes any row.
    case sql(store: StoreName, query: String, expect: String?)
  }

  package var name: String
  package var probe: Probe
  /// Of one try.
  package var timeoutMilliseconds: Int64
  /// Between tries.
  package var intervalMilliseconds: Int64
  package var attempts: Int

  package init(
    _ name: String, _ probe: Probe, timeoutMilliseconds: Int64 = 5000, intervalMilliseconds: Int64 = 500,
    attempts: Int = 60
  ) {
    (self.name, self.probe, self.timeoutMilliseconds) = (name, probe, timeoutMilliseconds)
    (self.intervalMilliseconds, self.attempts) = (intervalMilliseconds, attempts)
  }
}

package struct ReadyEvidence: Sendable, Equatable, Codable {
  package var check: String
  /// The one that passed, from 1.
  package var attempt: Int
  package var at: Timestamp
  /// From the first try to the one that passed.
  package var waitedNanoseconds: Int64

  package init(check: String, attempt: Int, at: Timestamp, waitedNanoseconds: Int64) {
    (self.check, self.attempt, self.at, self.waitedNanoseconds) = (check, attempt, at, waitedNanoseconds)
  }
}

package enum ServiceStart: Sendable, Equatable, Codable {
  case started(pid: Int32)
  case alreadyRunning(pid: Int32)
  /// A oneshot command ended with 0.
  case commandRan
}

package enum ServiceStatus: Sendable, Equatable, Codable {
  case running(pid: Int32)
  case notRunning
  /// A oneshot service: only its ready checks can tell.
  case unknown
}

package enum ServiceError: Failure, Equatable {
  case badCommand(ServiceName, why: String)
  case unknownUser(ServiceName, String)
  case startFailed(ServiceName, why: String)
  /// Ended, with the end of its log.
  case commandFailed(ServiceName, command: String, outcome: String, log: String)
  case timedOut(ServiceName, command: String, milliseconds: Int64)
  case wouldNotStop(ServiceName, pid: Int32)
  case diedEarly(ServiceName, log: String)
  case notReady(ServiceName, check: String, why: String)
  case noChecks(ServiceName)
  case secret(ServiceName, variable: String, Report)
  case system(Report)
  case cancelled

  package var report: Report {
    switch self {
    case .badCommand(let name, let why):
      Report("SERVICE-101", "service \(name): its command \(why)").remedy("correct it in the catalog")
    case .unknownUser(let name, let user):
      Report("SERVICE-102", "service \(name) is to run as \(user), who doesn't exist here")
        .remedy("create the user, or correct the catalog")
    case .startFailed(let name, let why):
      Report("SERVICE-201", "service \(name) could not be started: \(why)", retry: .afterChange)
        .state("it is not running")
    case .commandFailed(let name, let command, let outcome, let log):
      Report(
        "SERVICE-202", "service \(name): '\(command)' \(outcome)" + (log.isEmpty ? "" : ": \(log)"),
        retry: .afterBackoff)
    case .timedOut(let name, let command, let limit):
      Report("SERVICE-203", "service \(name): '\(command)' took longer than \(limit) ms", retry: .afterBackoff)
        .state("the command was killed").remedy("raise its timeout if it needs longer")
    case .wouldNotStop(let name, let pid):
      Report("SERVICE-204", "service \(name) (process \(pid)) did not end, not even when killed")
        .remedy("it may hang in the kernel: look at `ps -o stat,wchan \(pid)`")
    case .diedEarly(let name, let log):
      Report(
        "SERVICE-205", "service \(name) ended right after its start" + (log.isEmpty ? "" : ": \(log)"),
        retry: .afterBackoff
      ).remedy("its log tells more")
    case .notReady(let name, let check, let why):
      Report("SERVICE-301", "service \(name) is not ready: \(check): \(why)", retry: .afterBackoff)
        .remedy("look at the service's log, or at the check")
    case .noChecks(let name):
      Report("SERVICE-302", "service \(name) has no ready check, so nobody can say that it works")
        .remedy("give it one in the catalog: exec, tcp, http or sql")
    case .secret(let name, let variable, let report):
      Report(report.code, "service \(name), variable \(variable): \(report.summary)", retry: report.retry)
        .remedy(report.remedy ?? "check the secret reference in the catalog")
    case .system(let report): report
    case .cancelled: Report("CORE-001", "cancelled", retry: .afterBackoff)
    }
  }
}
