import Core
import IO
import StateKit
import Web

/// What is known of one cluster of an Envoy.
package struct EnvoySettings: Sendable {
  package var route: RouteName
  /// Envoy's own name for it; of type EDS, read from ``file``, with a panic threshold of 0.
  package var cluster: String
  /// Address and port by backend, in order; addresses are numbers.
  package var servers: [(name: BackendName, host: String, port: UInt16)]
  /// Written by Salvor, watched by Envoy.
  package var file: String
  /// Of its admin endpoint: `http://127.0.0.1:9901`.
  package var admin: String
  package var patience: Duration = .seconds(5)

  package init(
    route: RouteName, cluster: String, servers: [(name: BackendName, host: String, port: UInt16)], file: String,
    admin: String
  ) {
    (self.route, self.cluster, self.servers, self.file, self.admin) = (route, cluster, servers, file, admin)
  }
}

/// Envoy, by a file of endpoints that it watches, confirmed by its admin endpoint.
///
/// A closed endpoint stays in the file and is called unhealthy, so that what is still open to it can be counted. Envoy ends
/// nothing by itself then: requests under way finish, and TCP sessions last until somebody else ends them.
/// Source: Envoy API v3, `envoy.config.endpoint.v3.ClusterLoadAssignment`; "Dynamic from the filesystem"; admin `/clusters`.
package struct EnvoyRouter: TrafficRouter {
  private let settings: EnvoySettings
  private let web: any WebTransport
  private let time: any Timekeeper
  private let pool: BlockingPool

  package init(_ settings: EnvoySettings, web: any WebTransport, time: any Timekeeper, pool: BlockingPool = .shared) {
    (self.settings, self.web, self.time, self.pool) = (settings, web, time, pool)
  }

  package var route: RouteName { settings.route }
  package var backends: [BackendName] { settings.servers.map(\.name) }

  package var traits: RouterTraits {
    var traits = RouterTraits()
    (traits.cuts, traits.counts, traits.countsSessions) = (false, true, true)
    return traits
  }

  // MARK: The file

  /// What is watched; also to begin with, before Envoy is started for the first time.
  package static func text(_ settings: EnvoySettings, _ weights: [BackendName: Int]) throws -> [UInt8] {
    let endpoints = settings.servers.map { server -> JSONValue in
      let weight = weights[server.name] ?? 0
      let address: JSONValue = [
        "socket_address": ["address": .string(server.host), "port_value": .integer(Int64(server.port))]
      ]
      return [
        "endpoint": ["address": address], "health_status": .string(weight > 0 ? "HEALTHY" : "UNHEALTHY"),
        "load_balancing_weight": .integer(Int64(max(1, weight))),
      ]
    }
    let assignment: JSONValue = [
      "@type": "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
      "cluster_name": .string(settings.cluster), "endpoints": [["lb_endpoints": .array(endpoints)]],
    ]
    return try CanonicalJSON.encode(["resources": [assignment]] as JSONValue)
  }

  // MARK: Asking

  package func view() async throws(TrafficError) -> RouteView {
    let answer = try await ask("/clusters?format=json")
    guard let clusters = answer["cluster_statuses"]?.array else {
      throw .unknown(route, "its admin endpoint lists no clusters")
    }
    guard let cluster = clusters.first(where: { $0["name"]?.string == settings.cluster }) else {
      throw .refused(route, "it has no cluster '\(settings.cluster)'")
    }
    let hosts = cluster["host_statuses"]?.array ?? []
    return RouteView(settings.servers.map { server in backend(server, hosts) })
  }

  private func backend(
    _ server: (name: BackendName, host: String, port: UInt16), _ hosts: [JSONValue]
  ) -> RouteView.Backend {
    let host = hosts.first { host in
      let address = host["address"]?["socket_address"]
      return address?["address"]?.string == server.host && address?["port_value"]?.integer == Int64(server.port)
    }
    guard let host else { return RouteView.Backend(name: server.name, weight: 0) }
    var numbers: [String: Int64] = [:]
    for stat in host["stats"]?.array ?? [] {
      guard let name = stat["name"]?.string else { continue }
      // Nought is left out.
      numbers[name] = stat["value"]?.string.flatMap { Int64($0) } ?? stat["value"]?.integer ?? 0
    }
    let health = host["health_status"]
    let isClosed = health?["eds_health_status"]?.string != "HEALTHY"
    let failures = (numbers["rq_error"] ?? 0) + (numbers["cx_connect_fail"] ?? 0)
    let isFailing =
      health?["failed_active_health_check"]?.bool == true || health?["failed_outlier_check"]?.bool == true
    return RouteView.Backend(
      name: server.name, weight: isClosed ? 0 : Int(host["weight"]?.integer ?? 1), isHealthy: isFailing ? false : nil,
      sessions: Int(numbers["rq_active"] ?? 0),
      counters: TrafficCounters(requests: numbers["rq_total"] ?? 0, failures: failures))
  }

  private func ask(_ path: String) async throws(TrafficError) -> JSONValue {
    var request = WebRequest(.get, settings.admin + path)
    (request.timeLimit, request.stallLimit) = (.seconds(2), .seconds(2))
    request.responseLimitBytes = 16 << 20
    let response: WebResponse
    do throws(WebFailure) { response = try await web.send(request) } catch {
      if error == .cancelled { throw .cancelled }
      throw .unknown(route, "\(settings.admin): \(error)")
    }
    guard response.isSuccess, let value = try? CanonicalJSON.decode(JSONValue.self, from: response.body) else {
      throw .unknown(route, "\(settings.admin) answers \(response.status): \(response.excerpt)")
    }
    return value
  }

  // MARK: Changing

  package func weigh(_ weights: [BackendName: Int]) async throws(TrafficError) -> RouteView {
    try check(weights)
    let before = try await view().weights
    let wanted = before.merging(weights) { $1 }
    if wanted == before { return try await view() }
    // Two files, so that those that lose are seen closed before anybody gains.
    let losing = before.merging(weights) { min($0, $1) }
    if losing != before { _ = try await put(losing) }
    return wanted == losing ? try await view() : try await put(wanted)
  }

  private func put(_ weights: [BackendName: Int]) async throws(TrafficError) -> RouteView {
    let file = settings.file
    do {
      let bytes = try Self.text(settings, weights)
      // Envoy looks when a file takes another's place; one that is written to tells it nothing.
      try await pool.run { () throws(SystemFailure) in try Files.replace(file, with: bytes, mode: 0o644) }
    } catch { throw .settings(route, AnyFailure(error).report.summary) }
    let what = weights.sorted { $0.key < $1.key }.map { "\($0.key) has weight \($0.value)" }.joined(separator: ", ")
    return try await confirm(within: settings.patience, time, what) { $0.weights == weights }
  }

  package func cut(_ backend: BackendName) async throws(TrafficError) -> RouteView {
    let seen = try await view()
    guard let found = seen[backend] else { throw .noBackend(route, backend, known: backends) }
    if found.isOpen { throw .open(route, backend) }
    if found.sessions == 0 { return seen }
    throw .cannot(route, "end \(found.sessions ?? 0) sessions that \(backend) still has; they end by themselves")
  }
}
