import Core

/// What is wrong with a history; empty is what was promised.
package struct HistoryChecker: Sendable {
  package enum Promise: Sendable, Equatable {
    /// No acknowledged write is lost.
    case zeroLoss
    /// What an epoch acknowledged longer than this before its last acknowledgement isn't lost.
    case bounded(Duration)
  }

  package struct Finding: Sendable, Equatable, CustomStringConvertible {
    package enum Kind: String, Sendable {
      case lost, tooMuchLost, appeared, zombie, money, notLinear
    }

    package var kind: Kind
    package var text: String
    package var description: String { "\(kind.rawValue): \(text)" }
  }

  package struct Verdict: Sendable {
    package var findings: [Finding] = []
    package var acknowledged = 0
    package var lost = 0
    /// Before its epoch's last acknowledgement, the oldest that was lost.
    package var oldestLost: Duration = .zero
    /// Longest time between two acknowledged writes.
    package var longestSilence: Duration = .zero
    /// Servers that acknowledged, one after the other.
    package var epochs = 0
  }

  private let promise: Promise
  /// What all balances add up to.
  private let money: Int64

  package init(_ promise: Promise, money: Int64) { (self.promise, self.money) = (promise, money) }

  /// Pure. O(*n* log *n*) in operations, but for registers, where many that overlap cost more.
  package func check(_ history: [Operation], final: FinalState) -> Verdict {
    var verdict = Verdict()
    let acknowledged = history.filter { $0.outcome == .ok && $0.isWrite }
    verdict.acknowledged = acknowledged.count
    let ends = acknowledged.map(\.end).sorted()
    for (before, after) in zip(ends, ends.dropFirst()) {
      verdict.longestSilence = max(verdict.longestSilence, .nanoseconds(after - before))
    }
    let reigns = Self.reigns(acknowledged)
    verdict.epochs = reigns.count
    checkReigns(reigns, acknowledged, &verdict)
    checkAppends(history, reigns, final, &verdict)
    checkMoney(history, final, &verdict)
    // Whatever is lost within the bound is lost to registers too.
    if promise == .zeroLoss { checkRegisters(history, final, &verdict) }
    return verdict
  }

  // MARK: Epochs

  private struct Reign {
    var epoch: Int64
    var server: String
    var firstStart: Int64
    var firstEnd: Int64
    var lastEnd: Int64
  }

  /// By epoch and server, in the order of epochs, then of first acknowledgements.
  private static func reigns(_ acknowledged: [Operation]) -> [Reign] {
    var found: [String: Reign] = [:]
    for operation in acknowledged {
      guard let epoch = operation.epoch, let server = operation.server else { continue }
      let key = "\(epoch) \(server)"
      var reign =
        found[key]
        ?? Reign(
          epoch: epoch, server: server, firstStart: operation.start, firstEnd: operation.end, lastEnd: operation.end)
      reign.firstStart = min(reign.firstStart, operation.start)
      reign.firstEnd = min(reign.firstEnd, operation.end)
      reign.lastEnd = max(reign.lastEnd, operation.end)
      found[key] = reign
    }
    return found.values.sorted { ($0.epoch, $0.firstEnd) < ($1.epoch, $1.firstEnd) }
  }

  /// None may acknowledge what was begun after a later one has acknowledged. An answer may be long on its way; a question
  /// that wasn't asked yet can't.
  private func checkReigns(_ reigns: [Reign], _ acknowledged: [Operation], _ verdict: inout Verdict) {
    for (index, reign) in reigns.enumerated() {
      guard let next = reigns[(index + 1)...].min(by: { $0.firstEnd < $1.firstEnd }) else { continue }
      let late = acknowledged.filter { operation in
        operation.epoch == reign.epoch && operation.server == reign.server && operation.start > next.firstEnd
      }
      guard let first = late.min(by: { $0.start < $1.start }) else { continue }
      verdict.findings.append(
        Finding(
          kind: .zombie,
          text:
            "\(reign.server) acknowledged \(late.count) writes under epoch \(reign.epoch) begun up to \(Duration.nanoseconds(late.map(\.start).max()! - next.firstEnd).brief) after \(next.server) had acknowledged under epoch \(next.epoch), the first by \(first.client)"
        ))
    }
  }

  // MARK: Appends

  private func checkAppends(
    _ history: [Operation], _ reigns: [Reign], _ final: FinalState, _ verdict: inout Verdict
  ) {
    for operation in history {
      guard case .append(let key, let value) = operation.action else { continue }
      let isThere = final.appended[key]?.contains(value) ?? false
      if operation.outcome == .fail, isThere {
        verdict.findings.append(
          Finding(kind: .appeared, text: "\(value) of key \(key) was refused (\(operation.why ?? "")), and is there"))
      }
      guard operation.outcome == .ok, !isThere else { continue }
      verdict.lost += 1
      let reign = reigns.first { $0.epoch == operation.epoch && $0.server == operation.server }
      let before = Duration.nanoseconds((reign?.lastEnd ?? operation.end) - operation.end)
      verdict.oldestLost = max(verdict.oldestLost, before)
      let text =
        "\(value) of key \(key), acknowledged by \(operation.server ?? "?") under epoch \(operation.epoch ?? 0), \(before.brief) before its last acknowledgement, is gone"
      switch promise {
      case .zeroLoss: verdict.findings.append(Finding(kind: .lost, text: text))
      case .bounded(let bound):
        if before > bound { verdict.findings.append(Finding(kind: .tooMuchLost, text: text)) }
      }
    }
  }

  private func checkMoney(_ history: [Operation], _ final: FinalState, _ verdict: inout Verdict) {
    for operation in history {
      guard case .sum(let found?) = operation.action, operation.outcome == .ok, found != money else { continue }
      verdict.findings.append(
        Finding(kind: .money, text: "\(operation.server ?? "?") had \(found) in all accounts instead of \(money)"))
    }
    if final.balances != money {
      verdict.findings.append(
        Finding(kind: .money, text: "at the end there is \(final.balances) in all accounts instead of \(money)"))
    }
  }

  // MARK: Registers

  private func checkRegisters(_ history: [Operation], _ final: FinalState, _ verdict: inout Verdict) {
    var byKey: [Int: [Operation]] = [:]
    for operation in history {
      switch operation.action {
      case .read(let key, _), .write(let key, _), .swap(let key, _, _, _): byKey[key, default: []].append(operation)
      default: break
      }
    }
    for (key, operations) in byKey.sorted(by: { $0.key < $1.key }) {
      switch RegisterSearch(operations, final: final.registers[key]).search() {
      case .linear, .tooMany: break
      case .none:
        verdict.findings.append(
          Finding(
            kind: .notLinear, text: "no order of the \(operations.count) operations on register \(key) explains them"))
      }
    }
  }
}

/// Looks for an order of operations on one register that explains what each of them saw: each takes effect at one moment
/// between its start and its end, those nobody can say of at any moment after their start, or never.
///
/// Source: Wing and Gong, "Testing and Verifying Concurrent Objects", 1993; states seen before are cut off, after Lowe,
/// "Testing for Linearizability", 2017.
package struct RegisterSearch: Sendable {
  package enum Result: Sendable, Equatable { case linear, none, tooMany }

  private struct Event {
    enum Effect {
      case sees(Int64)
      case sets(Int64)
      case swaps(old: Int64, new: Int64, found: Int64?)
    }

    var start: Int64
    /// `.max`: it may never take effect.
    var end: Int64
    var effect: Effect
    var isSure: Bool { end != .max }
  }

  private var events: [Event] = []
  private static let limit = 2_000_000

  /// - Parameter final: What a read after all of them found. Registers hold 0 before the first write.
  package init(_ operations: [Operation], final: Int64? = nil) {
    var seen: Set<Int64> = []
    for operation in operations where operation.outcome == .ok {
      if case .read(_, let value?) = operation.action { seen.insert(value) }
      if case .swap(_, let old, _, let found) = operation.action { seen.formUnion([old, found ?? old]) }
    }
    if let final { seen.insert(final) }
    for operation in operations where operation.outcome != .fail {
      let isSure = operation.outcome == .ok
      let end = isSure ? operation.end : .max
      switch operation.action {
      case .read(_, let value?) where isSure:
        events.append(Event(start: operation.start, end: end, effect: .sees(value)))
      case .write(_, let value) where isSure || seen.contains(value):
        events.append(Event(start: operation.start, end: end, effect: .sets(value)))
      case .swap(_, let old, let new, let found) where isSure || seen.contains(new):
        // One nobody saw the effect of need not have had any.
        events.append(
          Event(start: operation.start, end: end, effect: .swaps(old: old, new: new, found: isSure ? found : nil)))
      default: break
      }
    }
    if let final {
      let last = events.filter(\.isSure).map(\.end).max() ?? 0
      events.append(Event(start: max(last, events.map(\.start).max() ?? 0) + 1, end: .max - 1, effect: .sees(final)))
    }
    events.sort { $0.start < $1.start }
  }

  private struct Place: Hashable {
    var done: [UInt64]
    var value: Int64
  }

  package func search() -> Result {
    let sure = events.count { $0.isSure }
    var stack: [(place: Place, sure: Int)] = []
    var seen: Set<Place> = []
    let first = Place(done: Array(repeating: 0, count: (events.count + 63) / 64), value: 0)
    stack.append((first, 0))
    seen.insert(first)
    while let (place, done) = stack.popLast() {
      if done == sure { return .linear }
      if seen.count > Self.limit { return .tooMany }
      // Nothing that began after the soonest end of what is left can come next.
      var horizon = Int64.max
      for (index, event) in events.enumerated() where place.done[index / 64] & (1 << UInt64(index % 64)) == 0 {
        if event.start > horizon { break }
        horizon = min(horizon, event.end)
      }
      for (index, event) in events.enumerated() {
        if event.start > horizon { break }
        if place.done[index / 64] & (1 << UInt64(index % 64)) != 0 { continue }
        guard let value = after(event.effect, place.value) else { continue }
        var next = place
        next.done[index / 64] |= 1 << UInt64(index % 64)
        next.value = value
        if seen.insert(next).inserted { stack.append((next, done + (event.isSure ? 1 : 0))) }
      }
    }
    return .none
  }

  /// What the register holds after it; `nil` if it can't have happened now.
  private func after(_ effect: Event.Effect, _ value: Int64) -> Int64? {
    switch effect {
    case .sees(let seen): seen == value ? value : nil
    case .sets(let new): new
    case .swaps(let old, let new, let found):
      if let found { (value == old ? new : value) == found ? found : nil } else { value == old ? new : nil }
    }
  }
}
