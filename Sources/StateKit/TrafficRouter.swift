import Core

/// A place a route can send requests to, as its operator calls it: a member of a failover policy, or a side.
package typealias BackendName = MemberName

/// What is routed, such as `bank-sql`.
package struct RouteName: Name {
  package let text: String
  package init(unchecked text: String) { self.text = text }
}

/// What has gone through since a router counts; only grows, until the router starts anew.
package struct TrafficCounters: Sendable, Equatable, Codable {
  package var requests: Int64
  /// Answers that say that the server failed, and requests that got none.
  package var failures: Int64
  /// Of late, in milliseconds; `nil` if the router doesn't measure it.
  package var meanMilliseconds: Int64?

  package init(requests: Int64, failures: Int64, meanMilliseconds: Int64? = nil) {
    (self.requests, self.failures, self.meanMilliseconds) = (requests, failures, meanMilliseconds)
  }
}

/// A route at one moment, as its router tells it.
package struct RouteView: Sendable, Equatable, Codable {
  package struct Backend: Sendable, Equatable, Codable {
    package var name: BackendName
    /// Its part of what comes new, in proportion to the others'; 0: it gets nothing new.
    package var weight: Int
    /// Whether the router's own checks would have anything sent there; `nil` if it makes none.
    package var isHealthy: Bool?
    /// Open now; `nil` if the router can't tell.
    package var sessions: Int?
    package var counters: TrafficCounters?

    package init(
      name: BackendName, weight: Int, isHealthy: Bool? = nil, sessions: Int? = nil, counters: TrafficCounters? = nil
    ) {
      (self.name, self.weight, self.isHealthy) = (name, weight, isHealthy)
      (self.sessions, self.counters) = (sessions, counters)
    }

    package var isOpen: Bool { weight > 0 }
  }

  package var backends: [Backend]

  package init(_ backends: [Backend]) { self.backends = backends }

  package subscript(name: BackendName) -> Backend? { backends.first { $0.name == name } }

  package var weights: [BackendName: Int] {
    Dictionary(backends.map { ($0.name, $0.weight) }, uniquingKeysWith: { first, _ in first })
  }

  /// `name` gets what comes new, and nobody else does.
  package func isAll(at name: BackendName) -> Bool {
    backends.contains { $0.name == name && $0.isOpen } && !backends.contains { $0.name != name && $0.isOpen }
  }
}

/// What a kind of router can do.
package struct RouterTraits: Sendable, Equatable, Codable {
  /// Gives parts to several at once; otherwise one gets all.
  package var weighs = true
  /// Ends sessions of a backend that is closed.
  package var cuts = true
  /// While all are closed, clients wait; otherwise they are refused.
  package var holds = false
  /// Counts requests and failures per backend.
  package var counts = false
  /// Counts open sessions per backend.
  package var countsSessions = false

  package init() {}
}

/// Sends what comes to one of several backends.
///
/// It is asked and told; nothing about it is assumed. A change returns when the router's own answer shows it, and not before;
/// those that lose are closed, and seen closed, before those that gain are opened. A router that doesn't answer is
/// ``TrafficError/unknown(_:_:)``: never closed, never open.
///
/// It speeds a failover up and is never what one rests on: the engine's quorum fences.
package protocol TrafficRouter: Sendable {
  var route: RouteName { get }
  /// In the order they were declared.
  var backends: [BackendName] { get }
  var traits: RouterTraits { get }

  /// What the router says now.
  func view() async throws(TrafficError) -> RouteView

  /// Gives each named backend its weight, from 0, which is closed, to 256; others keep theirs. Safe to repeat.
  ///
  /// - Returns: The router's answer that shows it.
  /// - Throws: ``TrafficError/unconfirmed(_:_:)`` if its answer never showed it, ``TrafficError/unknown(_:_:)`` if it didn't
  ///   answer: then part of it may be done, closing first.
  func weigh(_ weights: [BackendName: Int]) async throws(TrafficError) -> RouteView

  /// Ends what is still open to a backend that is closed; returns when the router shows none, or, where it can't count
  /// them, when what held them is gone.
  ///
  /// - Throws: ``TrafficError/open(_:_:)`` if the backend isn't closed, ``TrafficError/cannot(_:_:)``.
  func cut(_ backend: BackendName) async throws(TrafficError) -> RouteView
}

extension TrafficRouter {
  package func close(_ backend: BackendName) async throws(TrafficError) -> RouteView { try await weigh([backend: 0]) }

  /// Everything to one, nothing to the others; these are seen closed first, and their sessions cut if the router can.
  package func move(to target: BackendName, weight: Int = 100) async throws(TrafficError) -> RouteView {
    let others = backends.filter { $0 != target }
    let before = try await view()
    if before.isAll(at: target), others.allSatisfy({ (before[$0]?.sessions ?? 0) == 0 }) { return before }
    _ = try await weigh(Dictionary(uniqueKeysWithValues: others.map { ($0, 0) }))
    var uncut: TrafficError?
    if traits.cuts {
      for other in others {
        do throws(TrafficError) { _ = try await cut(other) } catch { uncut = error }
      }
    }
    // Sessions that don't end keep nobody new from the other side; whoever asked is told all the same.
    let opened = try await weigh([target: weight])
    if let uncut { throw uncut }
    return opened
  }

  /// Refuses what makes no sense, before anything is touched.
  package func check(_ weights: [BackendName: Int]) throws(TrafficError) {
    for (name, weight) in weights {
      guard backends.contains(name) else { throw .noBackend(route, name, known: backends) }
      guard (0...256).contains(weight) else {
        throw .cannot(route, "give a weight of \(weight); 0 to 256 can be given")
      }
    }
    if !traits.weighs, weights.values.count(where: { $0 > 0 }) > 1 {
      throw .cannot(route, "divide traffic: one backend gets all")
    }
  }

  /// Asks until the answer shows what is wanted.
  package func confirm(
    within limit: Duration, _ time: any Timekeeper, _ what: String, _ isSo: (RouteView) -> Bool
  ) async throws(TrafficError) -> RouteView {
    let start = time.monotonicNanoseconds()
    while true {
      let seen = try await view()
      if isSo(seen) { return seen }
      guard time.monotonicNanoseconds() - start < limit.wholeNanoseconds else { throw .unconfirmed(route, what) }
      do { try await time.sleep(for: .milliseconds(20)) } catch { throw .cancelled }
    }
  }
}

/// Why a router isn't known to do what it was told.
package enum TrafficError: Failure, Equatable {
  case settings(RouteName, String)
  case noBackend(RouteName, BackendName, known: [BackendName])
  /// Not within what this kind of router can do.
  case cannot(RouteName, String)
  case refused(RouteName, String)
  case open(RouteName, BackendName)
  /// No answer, or none that makes sense.
  case unknown(RouteName, String)
  /// It answers, and not as it was told.
  case unconfirmed(RouteName, String)
  case cancelled

  package var report: Report {
    switch self {
    case .settings(let route, let why):
      Report("TRAFFIC-101", "route \(route) can't be used: \(why)").remedy("correct it in the catalog")
    case .noBackend(let route, let name, let known):
      Report("TRAFFIC-102", "route \(route) has no backend '\(name)'")
        .remedy("it has \(known.map(\.text).joined(separator: ", "))")
    case .cannot(let route, let what):
      Report("TRAFFIC-103", "the router of \(route) can't \(what)", retry: .never)
        .remedy("docs/operating/traffic.md says what each kind of router can do")
    case .refused(let route, let why):
      Report("TRAFFIC-104", "the router of \(route) refuses: \(why)").state("nothing more was changed")
        .remedy("see docs/operating/traffic.md for what its configuration needs")
    case .open(let route, let name):
      Report("TRAFFIC-105", "backend \(name) of route \(route) is open, and sessions of an open one aren't cut")
        .state("nothing was changed").remedy("close it first")
    case .unknown(let route, let why):
      Report("TRAFFIC-201", "the router of \(route) doesn't answer: \(why)", retry: .afterBackoff)
        .state("where traffic goes is not known; repeating the change is safe")
        .remedy("see whether it runs and can be reached")
    case .unconfirmed(let route, let what):
      Report("TRAFFIC-202", "the router of \(route) doesn't show that \(what)", retry: .afterBackoff)
        .state("it may come yet; repeating the change is safe").remedy("see whether somebody else changes it, too")
    case .cancelled: Report("CORE-001", "cancelled", retry: .afterBackoff)
    }
  }
}
