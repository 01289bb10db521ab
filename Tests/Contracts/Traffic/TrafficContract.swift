import Core
import StateKit
import Testing

/// A real router with two real backends behind it, `a` and `b`.
package protocol TrafficRig: Sendable {
  var router: any TrafficRouter { get }

  /// What a client would send; who answered, as the answer itself says. `nil`: nobody did.
  func request() async throws -> BackendName?
  /// How many requests each backend says it has had.
  func arrivals() async throws -> [BackendName: Int]
  /// One that stays open.
  func session() async throws -> any RigSession
  /// The router stands still, or goes on.
  func freeze(_ isFrozen: Bool) async throws
}

package protocol RigSession: Sendable {
  var backend: BackendName { get }
  /// Whether its end is seen within half a minute, or at once if it is over.
  func ends() async -> Bool
  /// Looks once.
  func isOpen() async -> Bool
  func end() async
}

/// What every traffic router promises.
package enum TrafficPromise: String, CaseIterable, Sendable {
  case toldIsSeen = "what it was told is what it says"
  case onlyThere = "requests go where they should, and nowhere else"
  case closedIsClosed = "with all closed nobody is reached"
  case divided = "two that are open both get their part"
  case neverBoth = "while service moves, never are both open"
  case sessionsAreCut = "sessions of a closed backend are ended, and of an open one aren't"
  case againIsNothing = "told the same again, it does nothing"
  case nonsenseIsRefused = "nonsense is refused before anything is touched"
  case silenceIsUnknown = "a router that doesn't answer is unknown, never closed"

  package func keep(_ rig: some TrafficRig) async throws {
    let router = rig.router
    let (a, b): (BackendName, BackendName) = ("a", "b")
    _ = try await router.move(to: a)
    switch self {
    case .toldIsSeen:
      #expect(router.backends == [a, b])
      let moved = try await router.move(to: b, weight: 100)
      #expect(moved.isAll(at: b) && !moved.isAll(at: a))
      #expect(try await router.view().weights == [a: 0, b: 100])
      #expect(try await router.close(b).weights == [a: 0, b: 0])
      #expect(try await router.view().weights == [a: 0, b: 0])
    case .onlyThere:
      for target in [b, a] {
        _ = try await router.move(to: target)
        let before = try await rig.arrivals()
        for _ in 0..<25 { #expect(try await rig.request() == target, "\(rawValue)") }
        let after = try await rig.arrivals()
        for name in [a, b] {
          let more = (after[name] ?? 0) - (before[name] ?? 0)
          #expect(more == (name == target ? 25 : 0), "\(name) had \(more) while \(target) was open")
        }
      }
    case .closedIsClosed:
      _ = try await router.close(a)
      let before = try await rig.arrivals()
      for _ in 0..<3 { #expect(try await rig.request() == nil) }
      #expect(try await rig.arrivals() == before)
      _ = try await router.move(to: b)
      #expect(try await rig.request() == b)
    case .divided:
      if router.traits.weighs {
        _ = try await router.weigh([a: 50, b: 50])
        var answers: [BackendName: Int] = [:]
        for _ in 0..<60 { if let name = try await rig.request() { answers[name, default: 0] += 1 } }
        #expect((answers[a] ?? 0) > 5 && (answers[b] ?? 0) > 5, "\(answers)")
        #expect(try await router.view().weights == [a: 50, b: 50])
      } else {
        await #expect(throws: TrafficError.cannot(router.route, "divide traffic: one backend gets all")) {
          try await router.weigh([a: 50, b: 50])
        }
        #expect(try await router.view().isAll(at: a))
      }
    case .neverBoth:
      let seen = try await withThrowingTaskGroup(of: [RouteView].self) { group in
        group.addTask {
          var views: [RouteView] = []
          while !Task.isCancelled { if let view = try? await router.view() { views.append(view) } }
          return views
        }
        for target in [b, a, b] { _ = try await router.move(to: target) }
        group.cancelAll()
        return try await group.reduce(into: []) { $0 += $1 }
      }
      #expect(seen.allSatisfy { !($0[a]!.isOpen && $0[b]!.isOpen) })
    case .sessionsAreCut:
      let session = try await rig.session()
      #expect(session.backend == a)
      await #expect(throws: TrafficError.open(router.route, a)) { try await router.cut(a) }
      #expect(await session.isOpen())
      _ = try await router.weigh([a: 0])
      if router.traits.cuts {
        _ = try await router.weigh([b: 100])
        let after = try await router.cut(a)
        #expect((after[a]?.sessions ?? 0) == 0)
        #expect(await session.ends(), "the session of the old side lives on")
      } else {
        let seen = try await router.view()
        #expect(seen[a]?.sessions == 1)
        await #expect(throws: TrafficError.self) { try await router.cut(a) }
        #expect(await session.isOpen())
        _ = try await router.weigh([b: 100])
        await session.end()
      }
      #expect(try await rig.request() == b)
    case .againIsNothing:
      for _ in 0..<2 { #expect(try await router.weigh([a: 100, b: 0]).isAll(at: a)) }
      for _ in 0..<2 { #expect(try await router.move(to: a).isAll(at: a)) }
      #expect(try await rig.request() == a)
    case .nonsenseIsRefused:
      await #expect(throws: TrafficError.noBackend(router.route, "c", known: [a, b])) {
        try await router.weigh(["c": 1, "a": 0])
      }
      await #expect(throws: TrafficError.self) { try await router.weigh([b: 257, a: 0]) }
      #expect(try await router.view().isAll(at: a))
      #expect(try await rig.request() == a)
    case .silenceIsUnknown:
      try await rig.freeze(true)
      for call in 0..<3 {
        let error = await #expect(throws: TrafficError.self) {
          switch call {
          case 0: _ = try await router.view()
          case 1: _ = try await router.close(a)
          default: _ = try await router.move(to: b)
          }
        }
        guard case .unknown? = error else {
          Issue.record("a frozen router is \(String(describing: error)), not unknown")
          continue
        }
      }
      try await rig.freeze(false)
      #expect(try await router.move(to: b).isAll(at: b))
      #expect(try await rig.request() == b)
    }
  }
}
