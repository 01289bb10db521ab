import Core
import IO
import StateKit

/// What is known of one database of a PgBouncer.
package struct PgBouncerSettings: Sendable {
  package var route: RouteName
  /// Of PgBouncer itself.
  package var host: String
  package var port: UInt16
  /// One of its `admin_users`.
  package var user: String
  package var password: SecretReference?
  /// Its own name for it.
  package var database: String
  /// `host` and `port` of the server by backend, in order.
  package var servers: [(name: BackendName, host: String, port: UInt16)]
  /// Written by Salvor; `pgbouncer.ini` includes it below `[databases]`.
  package var file: String
  /// What else its line says, such as `dbname=bank pool_size=20`.
  package var parameters: String
  /// How long transactions under way may take to end by themselves.
  package var grace: Duration = .seconds(2)
  package var patience: Duration = .seconds(3)

  package init(
    route: RouteName, host: String, port: UInt16, user: String, password: SecretReference? = nil, database: String,
    servers: [(name: BackendName, host: String, port: UInt16)], file: String, parameters: String = ""
  ) {
    (self.route, self.host, self.port, self.user) = (route, host, port, user)
    (self.password, self.database, self.servers) = (password, database, servers)
    (self.file, self.parameters) = (file, parameters)
  }
}

/// PgBouncer, over its admin console and a file that its configuration includes.
///
/// Closed is paused: clients wait. Transactions under way may end first; those that don't in time are ended with their clients
/// (KILL). One server has all, so traffic is not divided. A file says where, so it survives a restart.
/// Source: PgBouncer 1.18, "Usage": PAUSE, KILL, RELOAD, RESUME, SHOW DATABASES, SHOW SERVERS.
package struct PgBouncerRouter: TrafficRouter {
  package typealias Resolve = @Sendable (SecretReference) async throws(AnyFailure) -> Secret

  private let settings: PgBouncerSettings
  private let resolve: Resolve
  private let time: any Timekeeper
  private let pool: BlockingPool

  package init(
    _ settings: PgBouncerSettings, time: any Timekeeper, pool: BlockingPool = .shared, resolve: @escaping Resolve
  ) throws(TrafficError) {
    func isPlain(_ text: String) -> Bool {
      !text.isEmpty && text.utf8.allSatisfy { $0 > 32 && $0 < 127 && !"'\";=".utf8.contains($0) }
    }
    for text in [settings.database] + settings.servers.map(\.host) where !isPlain(text) {
      throw .settings(settings.route, "'\(text)' can't stand in pgbouncer.ini")
    }
    guard settings.parameters.utf8.allSatisfy({ $0 >= 32 && $0 < 127 }), !settings.parameters.contains("password")
    else { throw .settings(settings.route, "its parameters are no single line, or hold a password") }
    (self.settings, self.time, self.pool, self.resolve) = (settings, time, pool, resolve)
  }

  package var route: RouteName { settings.route }
  package var backends: [BackendName] { settings.servers.map(\.name) }

  package var traits: RouterTraits {
    var traits = RouterTraits()
    (traits.weighs, traits.holds, traits.countsSessions) = (false, true, true)
    return traits
  }

  /// What is included; also to begin with, before PgBouncer is started for the first time.
  package static func text(_ settings: PgBouncerSettings, _ name: BackendName) -> String {
    guard let server = settings.servers.first(where: { $0.name == name }) else { return "" }
    let more = settings.parameters.isEmpty ? "" : " \(settings.parameters)"
    return """
      ; Written by Salvor: route \(settings.route) goes to \(name). What is changed here by hand is lost.
      \(settings.database) = host=\(server.host) port=\(server.port)\(more)

      """
  }

  // MARK: Asking

  private struct Sight: Sendable {
    var name: BackendName?
    var isPaused: Bool
    /// Connections to servers, by `host:port`.
    var sessions: [String: Int]
  }

  package func view() async throws(TrafficError) -> RouteView { view(try await sight()) }

  private func sight() async throws(TrafficError) -> Sight {
    try await onConsole { (console, settings) throws(ConsoleFailure) in try Self.look(console, settings) }
  }

  private func view(_ sight: Sight) -> RouteView {
    RouteView(
      settings.servers.map { server in
        RouteView.Backend(
          name: server.name, weight: !sight.isPaused && sight.name == server.name ? 100 : 0,
          sessions: sight.sessions["\(server.host):\(server.port)"] ?? 0)
      })
  }

  private static func look(_ console: AdminConsole, _ settings: PgBouncerSettings) throws(ConsoleFailure) -> Sight {
    let databases = try console.ask("SHOW DATABASES", patience: settings.patience)
    guard let row = databases.first(where: { $0["name"] == settings.database }) else {
      throw ConsoleFailure(why: "it has no database '\(settings.database)'", isRefusal: true)
    }
    var sight = Sight(name: nil, isPaused: row["paused"] != "0" || row["disabled"] != "0", sessions: [:])
    sight.name =
      settings.servers.first { row["host"] == $0.host && row["port"] == String($0.port) }?.name
    for server in try console.ask("SHOW SERVERS", patience: settings.patience)
    where server["database"] == settings.database {
      sight.sessions["\(server["addr"] ?? ""):\(server["port"] ?? "")", default: 0] += 1
    }
    return sight
  }

  private func onConsole<T: Sendable>(
    _ body: @escaping @Sendable (AdminConsole, PgBouncerSettings) throws(ConsoleFailure) -> T
  ) async throws(TrafficError) -> T {
    var password: Secret?
    if let reference = settings.password {
      do throws(AnyFailure) { password = try await resolve(reference) } catch {
        throw .settings(route, error.report.summary)
      }
    }
    let (settings, secret) = (settings, password)
    do throws(ConsoleFailure) {
      return try await pool.run { () throws(ConsoleFailure) in
        let console = try AdminConsole(
          host: settings.host, port: settings.port, user: settings.user, password: secret, patience: settings.patience)
        return try body(console, settings)
      }
    } catch {
      if Task.isCancelled { throw .cancelled }
      throw error.isRefusal ? .refused(route, error.why) : .unknown(route, error.why)
    }
  }

  // MARK: Changing

  package func weigh(_ weights: [BackendName: Int]) async throws(TrafficError) -> RouteView {
    try check(weights)
    let before = try await sight()
    let current = before.isPaused ? nil : before.name
    let wanted = backends.first { (weights[$0] ?? 0) > 0 }
    // Nobody is named to gain: whoever is open and isn't named stays so.
    let isKept = current.map { weights[$0] == nil } ?? true
    guard let wanted else {
      if isKept { return view(before) }
      return try await hold()
    }
    if wanted == current { return view(before) }
    if current != nil, isKept { throw .cannot(route, "divide traffic: one backend gets all") }
    if current != nil { _ = try await hold() }
    return try await send(to: wanted)
  }

  /// Clients wait; nothing is under way any more.
  private func hold() async throws(TrafficError) -> RouteView {
    let isHeld = try await onConsole { (console, settings) throws(ConsoleFailure) -> Bool in
      if try Self.look(console, settings).isPaused { return false }
      do throws(ConsoleFailure) {
        try console.ask("PAUSE \(Self.quoted(settings.database))", patience: settings.grace)
        return true
      } catch {
        guard error.isLate else { throw error }
        return false
      }
    }
    if !isHeld, try await view().backends.contains(where: { $0.sessions != 0 }) {
      // Somebody's transaction doesn't end, or its server doesn't answer.
      try await onConsole { (console, settings) throws(ConsoleFailure) in
        _ = try console.ask("KILL \(Self.quoted(settings.database))", patience: settings.patience)
      }
    }
    return try await confirm(within: settings.patience, time, "it waits") { seen in
      seen.backends.allSatisfy { !$0.isOpen && $0.sessions == 0 }
    }
  }

  private func send(to name: BackendName) async throws(TrafficError) -> RouteView {
    let (file, bytes) = (settings.file, Array(Self.text(settings, name).utf8))
    do throws(SystemFailure) {
      try await pool.run { () throws(SystemFailure) in try Files.replace(file, with: bytes, mode: 0o644) }
    } catch { throw .settings(route, error.report.summary) }
    try await onConsole { (console, settings) throws(ConsoleFailure) in
      try console.ask("RELOAD", patience: settings.patience)
      // Clients go on only where they are meant to.
      guard try Self.look(console, settings).name == name else {
        throw ConsoleFailure(
          why: "after RELOAD it doesn't say that it goes to \(name); does it include \(settings.file)?")
      }
      try console.ask("RESUME \(Self.quoted(settings.database))", patience: settings.patience)
    }
    return try await confirm(within: settings.patience, time, "\(name) gets all") { $0.isAll(at: name) }
  }

  package func cut(_ backend: BackendName) async throws(TrafficError) -> RouteView {
    guard backends.contains(backend) else { throw .noBackend(route, backend, known: backends) }
    let seen = try await view()
    if seen[backend]?.isOpen ?? true { throw .open(route, backend) }
    if seen[backend]?.sessions == 0 { return seen }
    try await onConsole { (console, settings) throws(ConsoleFailure) in
      // While it waits, whatever is connected is a leftover; while another serves, what goes to this one is closed as it ends.
      let isPaused = try Self.look(console, settings).isPaused
      let name = Self.quoted(settings.database)
      try console.ask("\(isPaused ? "KILL" : "RECONNECT") \(name)", patience: settings.patience)
    }
    return try await confirm(within: settings.patience, time, "\(backend) has no session any more") { seen in
      seen[backend]?.sessions == 0
    }
  }

  private static func quoted(_ name: String) -> String { "\"\(name)\"" }
}
