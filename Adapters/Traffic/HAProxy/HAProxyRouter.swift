import Core
import DriverKit
import IO
import StateKit

/// What is known of one HAProxy backend.
package struct HAProxySettings: Sendable {
  package var route: RouteName
  /// Of the runtime API: a socket's absolute path, or `host:port`; with `level admin`.
  package var socket: String
  /// HAProxy's own name for it.
  package var backend: String
  /// HAProxy's server by backend, in order.
  package var servers: [(name: BackendName, server: String)]
  /// Kept up to date after every change, for `load-server-state-from-file`: what was told survives a reload then.
  package var stateFile: String?
  /// For one answer; and for a change to show.
  package var patience: Duration = .seconds(2)

  package init(route: RouteName, socket: String, backend: String, servers: [(name: BackendName, server: String)]) {
    (self.route, self.socket, self.backend, self.servers) = (route, socket, backend, servers)
  }
}

/// HAProxy, over the runtime API of its stats socket.
///
/// A closed server is in maintenance: nothing new goes there, not even what sticks to it by a cookie. What is told is kept by
/// the process and gone with a reload, unless ``HAProxySettings/stateFile`` is read by it.
/// Source: HAProxy 2.6, "Management Guide", 9.1 (CSV format), 9.3 (Unix socket commands).
package struct HAProxyRouter: TrafficRouter {
  private let settings: HAProxySettings
  private let time: any Timekeeper
  private let pool: BlockingPool

  package init(_ settings: HAProxySettings, time: any Timekeeper, pool: BlockingPool = .shared) throws(TrafficError) {
    for name in [settings.backend] + settings.servers.map(\.server) where !Self.isName(name) {
      throw .settings(settings.route, "'\(name)' is no name of HAProxy's")
    }
    (self.settings, self.time, self.pool) = (settings, time, pool)
  }

  /// What goes into a command line, and can't end it.
  private static func isName(_ text: String) -> Bool {
    !text.isEmpty && text.utf8.count <= 128
      && text.utf8.allSatisfy { byte in
        (97...122).contains(byte) || (65...90).contains(byte) || (48...57).contains(byte) || "-_.:".utf8.contains(byte)
      }
  }

  package var route: RouteName { settings.route }
  package var backends: [BackendName] { settings.servers.map(\.name) }

  package var traits: RouterTraits {
    var traits = RouterTraits()
    (traits.counts, traits.countsSessions) = (true, true)
    return traits
  }

  // MARK: Asking

  package func view() async throws(TrafficError) -> RouteView {
    let rows = try HAProxyTable(try await ask("show stat \(settings.backend) 4 -1"), route).rows
    var found: [RouteView.Backend] = []
    for (name, server) in settings.servers {
      guard let row = rows.first(where: { $0["pxname"] == settings.backend && $0["svname"] == server }) else {
        throw .refused(route, "it has no server '\(settings.backend)/\(server)'")
      }
      found.append(try backend(name, row))
    }
    return RouteView(found)
  }

  private func backend(_ name: BackendName, _ row: [String: String]) throws(TrafficError) -> RouteView.Backend {
    guard let status = row["status"], let weight = row["weight"].flatMap({ Int($0) }) else {
      throw .unknown(route, "its statistics lack status or weight")
    }
    func number(_ key: String) -> Int64 { row[key].flatMap { Int64($0) } ?? 0 }
    let isClosed = status.hasPrefix("MAINT") || status.hasPrefix("DRAIN")
    let isHTTP = row["mode"] == "http"
    let answers = (1...5).map { number("hrsp_\($0)xx") }.reduce(number("hrsp_other"), +)
    let failures = number("econ") + number("eresp") + (isHTTP ? number("hrsp_5xx") : 0)
    let counters = TrafficCounters(
      requests: max(number("stot"), answers), failures: failures, meanMilliseconds: isHTTP ? number("rtime") : nil)
    let isHealthy = isClosed || status == "no check" ? nil : status.hasPrefix("UP")
    return RouteView.Backend(
      name: name, weight: isClosed ? 0 : weight, isHealthy: isHealthy, sessions: Int(number("scur")),
      counters: counters)
  }

  // MARK: Changing

  package func weigh(_ weights: [BackendName: Int]) async throws(TrafficError) -> RouteView {
    try check(weights)
    let before = try await view().weights
    let wanted = settings.servers.filter { weights[$0.name] != nil && weights[$0.name] != before[$0.name] }
    let losing = wanted.filter { (weights[$0.name] ?? 0) < (before[$0.name] ?? 0) }
    for (name, server) in losing { try await set(server, weights[name] ?? 0) }
    _ = try await confirmed(weights, of: losing.map(\.name))
    let gaining = wanted.filter { (weights[$0.name] ?? 0) > (before[$0.name] ?? 0) }
    for (name, server) in gaining { try await set(server, weights[name] ?? 0) }
    let shown = try await confirmed(weights, of: Array(weights.keys))
    try await keep()
    return shown
  }

  private func confirmed(_ weights: [BackendName: Int], of names: [BackendName]) async throws(TrafficError)
    -> RouteView
  {
    let names = names.sorted()
    let what = names.map { "\($0) has weight \(weights[$0] ?? 0)" }.joined(separator: ", ")
    return try await confirm(within: settings.patience, time, what) { seen in
      names.allSatisfy { seen[$0]?.weight == weights[$0] }
    }
  }

  private func set(_ server: String, _ weight: Int) async throws(TrafficError) {
    let place = "\(settings.backend)/\(server)"
    if weight > 0 { try await tell("set server \(place) weight \(weight)") }
    try await tell("set server \(place) state \(weight > 0 ? "ready" : "maint")")
  }

  package func cut(_ backend: BackendName) async throws(TrafficError) -> RouteView {
    guard let server = settings.servers.first(where: { $0.name == backend })?.server else {
      throw .noBackend(route, backend, known: backends)
    }
    let start = time.monotonicNanoseconds()
    while true {
      let seen = try await view()
      if seen[backend]?.isOpen ?? true { throw .open(route, backend) }
      if seen[backend]?.sessions == 0 { return seen }
      // Again each time: what was on its way to the server when it was closed may arrive after.
      try await tell("shutdown sessions server \(settings.backend)/\(server)")
      guard time.monotonicNanoseconds() - start < settings.patience.wholeNanoseconds else {
        throw .unconfirmed(route, "\(backend) has no session any more")
      }
      do { try await time.sleep(for: .milliseconds(20)) } catch { throw .cancelled }
    }
  }

  /// What was told is in a file that a reload reads.
  private func keep() async throws(TrafficError) {
    guard let path = settings.stateFile else { return }
    let state = try await ask("show servers state \(settings.backend)")
    guard state.hasPrefix("1\n") else { throw .unknown(route, "its state has a form that isn't known") }
    do throws(SystemFailure) {
      try await pool.run { () throws(SystemFailure) in try Files.replace(path, with: Array(state.utf8), mode: 0o644) }
    } catch { throw .refused(route, error.report.summary) }
  }

  // MARK: The socket

  private func tell(_ command: String) async throws(TrafficError) {
    let answer = try await ask(command).split(whereSeparator: \.isNewline)
    // It says nothing, or why not.
    if let line = answer.first(where: { !$0.isEmpty }) { throw .refused(route, String(line.prefix(300))) }
  }

  private func ask(_ command: String) async throws(TrafficError) -> String {
    let (socket, patience) = (settings.socket, settings.patience)
    do throws(RuntimeSilence) {
      let bytes = try await pool.run { () throws(RuntimeSilence) in
        try RuntimeSocket.ask(command, socket, patience)
      }
      let text = String(decoding: bytes, as: UTF8.self)
      if text.hasPrefix("Permission denied") { throw .broken("its socket lacks 'level admin'") }
      return text
    } catch {
      if Task.isCancelled { throw .cancelled }
      throw .unknown(route, error.why)
    }
  }
}

/// Why the socket told nothing.
struct RuntimeSilence: SocketFailure {
  var why: String

  static func silent(_ limit: Duration) -> RuntimeSilence { RuntimeSilence(why: "nothing within \(limit.brief)") }
  static func broken(_ why: String) -> RuntimeSilence { RuntimeSilence(why: why) }
  static var cancelled: RuntimeSilence { RuntimeSilence(why: "cancelled") }
}

enum RuntimeSocket {
  private static let limitBytes = 4 << 20

  /// One command, one answer, one connection. Blocks.
  static func ask(_ command: String, _ place: String, _ patience: Duration) throws(RuntimeSilence) -> [UInt8] {
    var (host, port) = (place, UInt16(0))
    if !place.hasPrefix("/") {
      guard let colon = place.lastIndex(of: ":"), let number = UInt16(place[place.index(after: colon)...]) else {
        throw .broken("'\(place)' is neither a socket's path nor host:port")
      }
      (host, port) = (String(place[..<colon]), number)
    }
    let socket = try TimedSocket<RuntimeSilence>.connect(host: host, port: port, patience: patience)
    try socket.send(Array("\(command)\n".utf8), patience: patience)
    var answer: [UInt8] = []
    let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: 16_384, alignment: 1)
    defer { buffer.deallocate() }
    while true {
      let count = try socket.receive(into: buffer, patience: patience)
      if count == 0 { return answer }
      answer += buffer.prefix(count)
      guard answer.count <= limitBytes else { throw .broken("its answer has more than \(limitBytes) bytes") }
    }
  }
}

/// `show stat` as rows by column.
struct HAProxyTable {
  var rows: [[String: String]] = []

  init(_ text: String, _ route: RouteName) throws(TrafficError) {
    var lines = text.split(separator: "\n", omittingEmptySubsequences: true)[...]
    guard let first = lines.popFirst(), first.hasPrefix("# pxname,svname,") else {
      throw .unknown(route, "what it says is no statistics: \(text.prefix(100).filter { !$0.isNewline })")
    }
    let columns = first.dropFirst(2).split(separator: ",", omittingEmptySubsequences: false).map(String.init)
    for line in lines {
      let cells = Self.cells(line)
      rows.append(Dictionary(zip(columns, cells), uniquingKeysWith: { first, _ in first }))
    }
  }

  /// Texts with a comma in them are in quotes.
  private static func cells(_ line: Substring) -> [String] {
    var (cells, cell, isQuoted) = ([String](), "", false)
    for character in line {
      switch character {
      case "\"": isQuoted.toggle()
      case "," where !isQuoted:
        cells.append(cell)
        cell = ""
      default: cell.append(character)
      }
    }
    return cells + [cell]
  }
}
