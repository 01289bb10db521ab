import Core

/// Where something is routed: which router, and what it calls each backend.
package struct TrafficRoute: Sendable, Hashable, Codable {
  package enum Router: Sendable, Hashable, Codable {
    case haproxy(HAProxy)
    case nginx(NGINX)
    case envoy(Envoy)
    case pgbouncer(PgBouncer)
    case exec(Command)
  }

  package struct HAProxy: Sendable, Hashable, Codable {
    /// A socket's path, or `host:port`.
    package var socket: String
    package var backend: String
    package var stateFile: String?
  }

  package struct NGINX: Sendable, Hashable, Codable {
    package var upstream: String
    package var file: String
    package var echo: String
    package var pidFile: String
    package var test: [String]
  }

  package struct Envoy: Sendable, Hashable, Codable {
    package var cluster: String
    package var file: String
    package var admin: String
  }

  package struct PgBouncer: Sendable, Hashable, Codable {
    package var host: String
    package var port: UInt16
    package var user: String
    package var password: SecretReference?
    package var database: String
    package var file: String
    package var parameters: String
  }

  package var name: CheckName
  package var description: String?
  package var router: Router
  /// What the router calls each: a server's name, or `host:port`.
  package var backends: [MemberName: String]
  /// The failover policy whose members the backends are.
  package var failover: PolicyName?
  /// How long the router may take to answer, and a change to show.
  package var patience: Duration

  package init(
    name: CheckName, description: String? = nil, router: Router, backends: [MemberName: String],
    failover: PolicyName? = nil, patience: Duration = .seconds(3)
  ) {
    (self.name, self.description, self.router, self.backends) = (name, description, router, backends)
    (self.failover, self.patience) = (failover, patience)
  }
}

/// A new side of a service that takes over step by step, and goes back by itself if it must.
package struct Rollout: Sendable, Hashable, Codable {
  package struct Warmth: Sendable, Hashable, Codable {
    /// Each is asked this often, before anything is sent to the new side.
    package var requests: [String]
    package var times: Int

    package init(requests: [String], times: Int) { (self.requests, self.times) = (requests, times) }
  }

  /// What the router's counters must say of the new side.
  package struct Bounds: Sendable, Hashable, Codable {
    /// Failures, in millionths of all requests.
    package var errorsPerMillion: Int?
    package var latency: Duration?
    /// Fewer requests than these say nothing.
    package var requests: Int

    package init(errorsPerMillion: Int? = nil, latency: Duration? = nil, requests: Int = 20) {
      (self.errorsPerMillion, self.latency, self.requests) = (errorsPerMillion, latency, requests)
    }
  }

  /// A number that Prometheus is asked for.
  package struct Query: Sendable, Hashable, Codable {
    package var name: CheckName
    package var url: String
    package var query: String
    package var least: Metric.Decimal?
    package var most: Metric.Decimal?

    package init(
      name: CheckName, url: String, query: String, least: Metric.Decimal? = nil, most: Metric.Decimal? = nil
    ) {
      (self.name, self.url, self.query, self.least, self.most) = (name, url, query, least, most)
    }
  }

  /// Flags that decide, and those that are only recorded.
  package struct Flags: Sendable, Hashable, Codable {
    /// A file's path, or where an OFREP service answers.
    package var source: String
    /// On: it may go on. Anything else, or nothing that can be found out: it goes back.
    package var allow: String?
    package var record: [String]
    /// Shown to an OFREP service.
    package var credential: SecretReference?

    package init(
      source: String, allow: String? = nil, record: [String] = [], credential: SecretReference? = nil
    ) {
      (self.source, self.allow, self.record, self.credential) = (source, allow, record, credential)
    }
  }

  package var name: PolicyName
  package var description: String?
  package var route: CheckName
  package var from: MemberName
  package var to: MemberName
  /// All must pass before the new side gets anything, and are asked again at every step.
  package var ready: [Probe]
  package var warm: Warmth?
  package var prime: Command?
  /// Percent of what comes new, ascending; the last is 100.
  package var steps: [Int]
  package var dwell: Duration
  package var interval: Duration
  package var watch: Bounds
  package var queries: [Query]
  /// How long what is needed to judge may be missing.
  package var patience: Duration
  /// How long the old side is kept open for a return, after the last step.
  package var keep: Duration
  package var flags: Flags?

  package init(
    name: PolicyName, description: String? = nil, route: CheckName, from: MemberName, to: MemberName, ready: [Probe],
    warm: Warmth? = nil, prime: Command? = nil, steps: [Int] = [1, 5, 25, 50, 100], dwell: Duration = .seconds(60),
    interval: Duration = .seconds(1), watch: Bounds = Bounds(), queries: [Query] = [],
    patience: Duration = .seconds(60), keep: Duration = .seconds(600), flags: Flags? = nil
  ) {
    (self.name, self.description, self.route, self.from, self.to) = (name, description, route, from, to)
    (self.ready, self.warm, self.prime, self.steps, self.dwell) = (ready, warm, prime, steps, dwell)
    (self.interval, self.watch, self.queries) = (interval, watch, queries)
    (self.patience, self.keep, self.flags) = (patience, keep, flags)
  }
}
