import Core
import StateKit
import Synchronization

/// The world that steps act on: keys with values, as durable as a disk, shared by all processes.
///
/// Knows by itself what must never happen, and takes it down in ``violations``.
final class SimulatedWorld: Sendable {
  struct Rules: Sendable {
    /// A lower fence is refused, as ARCHITECTURE.md asks of every effect that can carry one.
    var refusesLowerFences = true
    /// Acting twice under one derived id is a violation. Off where a zombie may win a race with its heir: there the
    /// second act under the same id finds the first one's work and changes nothing.
    var forbidsRepeats = true
  }

  struct Fenced: Failure {
    var report: Report { Report("SIM-1", "the world refused a lower fence", retry: .never) }
  }

  private struct State {
    var keys: [String: String] = [:]
    var floors: [String: Fence] = [:]
    var failuresLeft: [String: Int] = [:]
    var violations: [String] = []
    var trace: [String] = []
  }

  let rules: Rules
  private let state = Mutex(State())

  init(_ rules: Rules = Rules()) { self.rules = rules }

  var keys: [String: String] { state.withLock { $0.keys } }
  var violations: [String] { state.withLock { $0.violations } }
  var trace: [String] { state.withLock { $0.trace } }

  func note(_ line: String) { state.withLock { $0.trace.append(line) } }

  func read(_ key: String) -> String? { state.withLock { $0.keys[key] } }

  func put(_ key: String, _ value: String, fence: Fence) throws {
    try act(on: key, fence) { state in
      if let old = state.keys[key] {
        if rules.forbidsRepeats { state.violations.append("\(key) was put twice") }
        if old != value { state.violations.append("\(key) was \(old), is to be \(value)") }
      }
      state.keys[key] = value
    }
  }

  func remove(_ key: String, fence: Fence) throws { try act(on: key, fence) { $0.keys[key] = nil } }

  /// - Returns: Whether this try fails: the first `count` do, whoever makes them.
  func failsStill(_ key: String, count: Int) -> Bool {
    state.withLock { state in
      let left = state.failuresLeft[key] ?? count
      state.failuresLeft[key] = left - 1
      return left > 0
    }
  }

  private func act(on key: String, _ fence: Fence, _ body: (inout State) -> Void) throws {
    try state.withLock { state in
      let floor = state.floors[key] ?? .none
      if fence < floor {
        if rules.refusesLowerFences { throw Fenced() }
        state.violations.append("\(key): fence \(fence) acted after \(floor)")
      }
      state.floors[key] = max(floor, fence)
      body(&state)
    }
  }
}
