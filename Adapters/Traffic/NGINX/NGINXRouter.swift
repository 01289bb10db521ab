import Core
import DriverKit
import IO
import StateKit
import Web

#if canImport(Glibc)
  import Glibc
#endif

/// What is known of one nginx upstream.
package struct NGINXSettings: Sendable {
  package var route: RouteName
  /// The upstream's name, as `proxy_pass` has it.
  package var upstream: String
  /// `host:port` by backend, in order.
  package var servers: [(name: BackendName, address: String)]
  /// Written by Salvor; the configuration includes it in `http`, or in `stream`.
  package var file: String
  /// A location that returns what the file says: `return 200 $salvor_NAME;`.
  package var echo: String
  /// Where nginx writes its master's number.
  package var pidFile: String
  /// What tests a configuration: `nginx -t` and, where it isn't the usual one, `-c FILE`.
  package var test: [String] = ["nginx", "-t", "-q"]
  package var patience: Duration = .seconds(5)

  package init(
    route: RouteName, upstream: String, servers: [(name: BackendName, address: String)], file: String, echo: String,
    pidFile: String
  ) {
    (self.route, self.upstream, self.servers, self.file) = (route, upstream, servers, file)
    (self.echo, self.pidFile) = (echo, pidFile)
  }
}

/// nginx, by a file it includes: swapped, tested, and read again by a signal.
///
/// Confirmed by a location that returns what the running configuration says, and by its old workers having closed their ears.
/// What an old worker still serves goes where it went; `cut` ends those workers, and so whatever else they still serve.
/// Source: nginx 1.22, "Controlling nginx", modules `ngx_http_upstream_module`, `ngx_http_map_module`.
package struct NGINXRouter: TrafficRouter {
  private let settings: NGINXSettings
  private let web: any WebTransport
  private let time: any Timekeeper
  private let pool: BlockingPool

  package init(
    _ settings: NGINXSettings, web: any WebTransport, time: any Timekeeper, pool: BlockingPool = .shared
  ) throws(TrafficError) {
    for text in [settings.upstream] + settings.servers.map(\.address) where !Self.isPlain(text) {
      throw .settings(settings.route, "'\(text)' can't stand in nginx's configuration")
    }
    (self.settings, self.web, self.time, self.pool) = (settings, web, time, pool)
  }

  private static func isPlain(_ text: String) -> Bool {
    !text.isEmpty && text.utf8.count <= 200
      && text.utf8.allSatisfy { byte in
        (97...122).contains(byte) || (65...90).contains(byte) || (48...57).contains(byte)
          || "-_.:[]/".utf8.contains(byte)
      }
  }

  package var route: RouteName { settings.route }
  package var backends: [BackendName] { settings.servers.map(\.name) }
  package var traits: RouterTraits { RouterTraits() }

  /// The variable that the echo returns.
  package static func variable(_ route: RouteName) -> String {
    "salvor_" + route.text.map { $0 == "-" ? "_" : String($0) }.joined()
  }

  // MARK: The file

  /// What is included; also to begin with, before nginx is started for the first time.
  package static func text(_ settings: NGINXSettings, _ weights: [BackendName: Int], edition: String) -> String {
    var lines = ["# Written by Salvor: where route \(settings.route) goes. What is changed here by hand is lost."]
    lines.append("upstream \(settings.upstream) {")
    for (name, address) in settings.servers {
      let weight = weights[name] ?? 0
      lines.append("  server \(address) \(weight > 0 ? "weight=\(weight)" : "down");  # \(name)")
    }
    lines.append("}")
    let words = settings.servers.map { "\($0.name)=\(weights[$0.name] ?? 0)" }.joined(separator: " ")
    lines.append("map \"\" $\(variable(settings.route)) { default \"salvor \(settings.route) \(edition) \(words)\"; }")
    return lines.joined(separator: "\n") + "\n"
  }

  // MARK: Asking

  package func view() async throws(TrafficError) -> RouteView { try await heard().view }

  private func heard() async throws(TrafficError) -> (edition: String, view: RouteView) {
    var request = WebRequest(.get, settings.echo)
    // A connection of its own: one that stays open stays with the worker that took it.
    request.headers = [("connection", "close"), ("user-agent", "salvor")]
    (request.timeLimit, request.stallLimit) = (.seconds(2), .seconds(2))
    request.responseLimitBytes = 65_536
    let response: WebResponse
    do throws(WebFailure) { response = try await web.send(request) } catch {
      if error == .cancelled { throw .cancelled }
      throw .unknown(route, "\(settings.echo): \(error)")
    }
    guard response.isSuccess else { throw .unknown(route, "\(settings.echo) answers \(response.status)") }
    let words = String(decoding: response.body, as: UTF8.self).split(whereSeparator: \.isWhitespace).map(String.init)
    guard words.count == 3 + settings.servers.count, words[0] == "salvor", words[1] == route.text else {
      throw .unknown(route, "\(settings.echo) doesn't say what the file says: \(response.excerpt)")
    }
    var found: [RouteView.Backend] = []
    for ((name, _), word) in zip(settings.servers, words.dropFirst(3)) {
      let parts = word.split(separator: "=")
      guard parts.count == 2, parts[0] == name.text, let weight = Int(parts[1]) else {
        throw .unknown(route, "\(settings.echo) says '\(word)'")
      }
      found.append(RouteView.Backend(name: name, weight: weight))
    }
    return (words[2], RouteView(found))
  }

  // MARK: Changing

  package func weigh(_ weights: [BackendName: Int]) async throws(TrafficError) -> RouteView {
    try check(weights)
    let before = try await heard()
    let wanted = before.view.weights.merging(weights) { $1 }
    if wanted == before.view.weights { return before.view }
    // One file holds all: nobody is opened by one reading and somebody closed by another.
    let edition = Digest.of("\(time.now())\(time.monotonicNanoseconds())").short
    try await swap(Self.text(settings, wanted, edition: edition))
    let old = try await signalMaster()
    let start = time.monotonicNanoseconds()
    while true {
      let now = try await heard()
      if now.edition == edition, await areDeaf(old) { return now.view }
      guard time.monotonicNanoseconds() - start < settings.patience.wholeNanoseconds else {
        throw .unconfirmed(route, "all its workers have read \(settings.file) (edition \(edition))")
      }
      do { try await time.sleep(for: .milliseconds(20)) } catch { throw .cancelled }
    }
  }

  private func swap(_ text: String) async throws(TrafficError) {
    let (file, bytes) = (settings.file, Array(text.utf8))
    let before = try await onDisk { () throws(SystemFailure) in
      let before = try Files.read(file, limitBytes: 1 << 20)
      try Files.replace(file, with: bytes, mode: 0o644)
      return before
    }
    guard let refusal = await testRefuses() else { return }
    try await onDisk { () throws(SystemFailure) in try Files.replace(file, with: before, mode: 0o644) }
    throw .refused(route, "its own test says: \(refusal)")
  }

  private func onDisk<T: Sendable>(_ body: @escaping @Sendable () throws(SystemFailure) -> T) async throws(TrafficError)
    -> T
  {
    do throws(SystemFailure) { return try await pool.run(body) } catch { throw .settings(route, error.report.summary) }
  }

  /// - Returns: What it says, if it says no.
  private func testRefuses() async -> String? {
    let words = settings.test
    do {
      let command = ServerCommand(executable: words[0], arguments: Array(words.dropFirst()), user: nil)
      try await time.withTimeLimit(.seconds(20)) { _ = try await command.run() }
      return nil
    } catch { return AnyFailure(error).report.summary }
  }

  // MARK: Processes

  /// - Returns: The workers there were.
  private func signalMaster() async throws(TrafficError) -> Set<pid_t> {
    let (file, route) = (settings.pidFile, route)
    return try await pool.run { () throws(TrafficError) in
      let master = try Worker.master(file, route)
      let before = Set(Worker.of(master).map(\.pid))
      guard kill(master, SIGHUP) == 0 else { throw .refused(route, "process \(master) can't be signalled") }
      return before
    }
  }

  /// None of them takes connections any more.
  private func areDeaf(_ workers: Set<pid_t>) async -> Bool {
    await pool.run { workers.allSatisfy { Worker($0)?.isLeaving ?? true } }
  }

  package func cut(_ backend: BackendName) async throws(TrafficError) -> RouteView {
    let now = try await heard().view
    guard let found = now[backend] else { throw .noBackend(route, backend, known: backends) }
    if found.isOpen { throw .open(route, backend) }
    let (file, route) = (settings.pidFile, route)
    let start = time.monotonicNanoseconds()
    while true {
      let left = try await pool.run { () throws(TrafficError) -> Int in
        let leaving = Worker.of(try Worker.master(file, route)).filter(\.isLeaving)
        for worker in leaving { kill(worker.pid, SIGTERM) }
        return leaving.count
      }
      if left == 0 { return try await heard().view }
      guard time.monotonicNanoseconds() - start < settings.patience.wholeNanoseconds else {
        throw .unconfirmed(route, "its old workers are gone")
      }
      do { try await time.sleep(for: .milliseconds(20)) } catch { throw .cancelled }
    }
  }
}

/// One of nginx's processes, as the kernel lists them.
struct Worker {
  var pid: pid_t
  /// It serves what it has, and takes nothing new.
  var isLeaving: Bool

  /// - Returns: `nil` if it is none, or gone.
  init?(_ pid: pid_t) {
    let line = Self.commandLine(pid)
    guard line.hasPrefix("nginx: worker process") else { return nil }
    (self.pid, isLeaving) = (pid, line.contains("shutting down"))
  }

  static func master(_ file: String, _ route: RouteName) throws(TrafficError) -> pid_t {
    guard let bytes = try? Files.read(file, limitBytes: 64),
      let pid = pid_t(String(decoding: bytes, as: UTF8.self).filter { !$0.isWhitespace }), pid > 1
    else { throw .unknown(route, "\(file) names no process") }
    guard commandLine(pid).hasPrefix("nginx: master") else { throw .unknown(route, "process \(pid) is no nginx") }
    return pid
  }

  static func of(_ master: pid_t) -> [Worker] {
    let children = (try? Files.read("/proc/\(master)/task/\(master)/children", limitBytes: 1 << 20)) ?? []
    return String(decoding: children, as: UTF8.self).split(separator: " ").compactMap { pid_t($0) }
      .compactMap { Worker($0) }
  }

  private static func commandLine(_ pid: pid_t) -> String {
    let bytes = (try? Files.read("/proc/\(pid)/cmdline", limitBytes: 4096)) ?? []
    return String(decoding: bytes.prefix { $0 != 0 }, as: UTF8.self)
  }
}
