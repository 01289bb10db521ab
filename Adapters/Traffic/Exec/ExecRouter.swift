import Core
import DriverKit
import StateKit

/// What is known of a route that a program speaks for.
package struct ExecRouterSettings: Sendable {
  package var route: RouteName
  /// The program and its arguments; what is asked is added as the last one.
  package var words: [String]
  /// What the program calls each backend, in order.
  package var servers: [(name: BackendName, server: String)]
  package var patience: Duration = .seconds(5)

  package init(route: RouteName, words: [String], servers: [(name: BackendName, server: String)]) {
    (self.route, self.words, self.servers) = (route, words, servers)
  }
}

/// A router that a program of the operator's speaks to.
///
/// Its last argument is what is asked, as JSON; the last line it prints is the answer, as JSON; it exits with 0. Whatever it
/// is asked, it answers with how things are then. docs/operating/traffic.md has the protocol.
package struct ExecRouter: TrafficRouter {
  private let settings: ExecRouterSettings
  private let time: any Timekeeper

  package init(_ settings: ExecRouterSettings, time: any Timekeeper) throws(TrafficError) {
    guard !settings.words.isEmpty else { throw .settings(settings.route, "no program is named") }
    (self.settings, self.time) = (settings, time)
  }

  package var route: RouteName { settings.route }
  package var backends: [BackendName] { settings.servers.map(\.name) }

  package var traits: RouterTraits {
    var traits = RouterTraits()
    traits.countsSessions = true
    return traits
  }

  /// Never a secret: others see the arguments of a program.
  private struct Question: Encodable {
    var verb: String
    var route: RouteName
    /// By what the program calls it.
    var weights: [String: Int]?
    var server: String?
  }

  private struct Answer: Decodable {
    struct Server: Decodable {
      var name: String
      var weight: Int
      var sessions: Int?
      var healthy: Bool?
      var requests: Int64?
      var failures: Int64?
      var meanMilliseconds: Int64?
    }

    var servers: [Server]
  }

  package func view() async throws(TrafficError) -> RouteView { try await ask(Question(verb: "view", route: route)) }

  package func weigh(_ weights: [BackendName: Int]) async throws(TrafficError) -> RouteView {
    try check(weights)
    let before = try await view().weights
    let losing = weights.filter { $0.value < before[$0.key] ?? 0 }
    if !losing.isEmpty {
      try await tell(losing)
      _ = try await shown(losing)
    }
    let gaining = weights.filter { $0.value > before[$0.key] ?? 0 }
    if !gaining.isEmpty { try await tell(gaining) }
    return try await shown(weights)
  }

  private func tell(_ weights: [BackendName: Int]) async throws(TrafficError) {
    var named: [String: Int] = [:]
    for (name, server) in settings.servers { if let weight = weights[name] { named[server] = weight } }
    _ = try await ask(Question(verb: "weigh", route: route, weights: named))
  }

  private func shown(_ weights: [BackendName: Int]) async throws(TrafficError) -> RouteView {
    let what = weights.sorted { $0.key < $1.key }.map { "\($0.key) has weight \($0.value)" }.joined(separator: ", ")
    return try await confirm(within: settings.patience, time, what) { seen in
      weights.allSatisfy { seen[$0.key]?.weight == $0.value }
    }
  }

  package func cut(_ backend: BackendName) async throws(TrafficError) -> RouteView {
    guard let server = settings.servers.first(where: { $0.name == backend })?.server else {
      throw .noBackend(route, backend, known: backends)
    }
    let seen = try await view()
    if seen[backend]?.isOpen ?? true { throw .open(route, backend) }
    _ = try await ask(Question(verb: "cut", route: route, server: server))
    return try await confirm(within: settings.patience, time, "\(backend) has no session any more") { seen in
      (seen[backend]?.sessions ?? 0) == 0
    }
  }

  private func ask(_ question: Question) async throws(TrafficError) -> RouteView {
    let said: String
    do {
      let text = String(decoding: try CanonicalJSON.encode(question), as: UTF8.self)
      let words = settings.words + [text]
      let command = ServerCommand(executable: words[0], arguments: Array(words.dropFirst()), user: nil)
      said = try await time.withTimeLimit(settings.patience) { try await command.run() }
    } catch {
      if Task.isCancelled { throw .cancelled }
      throw .unknown(route, "\(settings.words[0]): \(AnyFailure(error).report.summary)")
    }
    guard let line = said.split(whereSeparator: \.isNewline).last,
      let answer = try? CanonicalJSON.decode(Answer.self, from: Array(line.utf8))
    else { throw .unknown(route, "the last line of \(settings.words[0]) is no answer in JSON") }
    var found: [RouteView.Backend] = []
    for (name, server) in settings.servers {
      guard let told = answer.servers.first(where: { $0.name == server }), (0...256).contains(told.weight) else {
        throw .unknown(route, "\(settings.words[0]) says nothing of '\(server)'")
      }
      var backend = RouteView.Backend(
        name: name, weight: told.weight, isHealthy: told.healthy, sessions: told.sessions)
      if let requests = told.requests, let failures = told.failures {
        backend.counters = TrafficCounters(
          requests: requests, failures: failures, meanMilliseconds: told.meanMilliseconds)
      }
      found.append(backend)
    }
    return RouteView(found)
  }
}
