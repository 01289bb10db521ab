import Core
import FailoverRig
import Testing

/// Histories that must be found wrong, beside those that must not.
@Suite("What is wrong with a history") struct CheckerTests {
  private let money: Int64 = 1000

  private func append(
    _ value: Int64, _ start: Int64, _ end: Int64, _ outcome: Operation.Outcome = .ok, epoch: Int64 = 1,
    server: String = "a"
  ) -> Operation {
    Operation(
      client: "p1", action: .append(key: 1, value: value), start: start, end: end, outcome: outcome,
      server: outcome == .ok ? server : nil, epoch: outcome == .ok ? epoch : nil)
  }

  private func check(
    _ history: [Operation], appended: Set<Int64> = [], registers: [Int: Int64] = [:], balances: Int64 = 1000,
    _ promise: HistoryChecker.Promise = .zeroLoss
  ) -> HistoryChecker.Verdict {
    HistoryChecker(promise, money: money).check(
      history, final: FinalState(appended: [1: appended], registers: registers, balances: balances))
  }

  @Test func `what was acknowledged and is there is fine, and what nobody can say of may be either`() {
    let history = [append(1, 0, 1), append(2, 2, 3, .unknown), append(3, 4, 5, .unknown), append(4, 6, 7, .fail)]
    let verdict = check(history, appended: [1, 3])
    #expect(verdict.findings.isEmpty)
    #expect(verdict.acknowledged == 1)
  }

  @Test func `an acknowledged write that is gone is lost`() {
    let verdict = check([append(1, 0, 1), append(2, 2, 3)], appended: [2])
    #expect(verdict.findings.map(\.kind) == [.lost])
    #expect(verdict.lost == 1)
  }

  @Test func `a refused write that is there has appeared`() {
    #expect(check([append(1, 0, 1, .fail)], appended: [1]).findings.map(\.kind) == [.appeared])
  }

  @Test func `within the bound something may be lost, before it nothing`() {
    let second: Int64 = 1_000_000_000
    let history = [append(1, 0, second), append(2, 4 * second, 5 * second), append(3, 5 * second, 6 * second)]
    let bound = HistoryChecker.Promise.bounded(.seconds(2))
    let within = check(history, appended: [1, 3], bound)
    #expect(within.findings.isEmpty)
    #expect(within.lost == 1)
    #expect(within.oldestLost == .seconds(1))
    #expect(check(history, appended: [2, 3], bound).findings.map(\.kind) == [.tooMuchLost])
  }

  @Test func `an old epoch acknowledges nothing that began after the new one did`() {
    let slow = append(3, 8, 30)
    let good = [append(1, 0, 5), slow, append(2, 10, 20, epoch: 2, server: "b")]
    // Slow on its way is no crime.
    #expect(check(good, appended: [1, 2, 3]).findings.isEmpty)
    let late = [append(1, 0, 5), append(2, 10, 20, epoch: 2, server: "b"), append(3, 21, 30)]
    #expect(check(late, appended: [1, 2, 3]).findings.map(\.kind) == [.zombie])
    // Two that count the same epoch are two all the same.
    let twins = [
      append(1, 0, 5, epoch: 2, server: "b"), append(2, 6, 7, epoch: 2, server: "c"),
      append(3, 9, 10, epoch: 2, server: "b"),
    ]
    #expect(check(twins, appended: [1, 2, 3]).findings.map(\.kind) == [.zombie])
  }

  @Test func `money neither comes nor goes`() {
    let seen = Operation(client: "p1", action: .sum(999), start: 0, end: 1, outcome: .ok, server: "a")
    #expect(check([seen]).findings.map(\.kind) == [.money])
    #expect(check([], balances: 1001).findings.map(\.kind) == [.money])
  }

  // MARK: Registers

  private func operation(_ action: Operation.Action, _ start: Int64, _ end: Int64, _ outcome: Operation.Outcome = .ok)
    -> Operation
  {
    Operation(client: "p1", action: action, start: start, end: end, outcome: outcome, server: "a", epoch: 1)
  }

  @Test func `what a register did in some order is linear`() {
    let history = [
      operation(.write(key: 1, value: 5), 0, 10), operation(.read(key: 1, value: 0), 1, 2),
      operation(.read(key: 1, value: 5), 3, 4), operation(.swap(key: 1, old: 5, new: 6, found: 6), 11, 12),
      operation(.swap(key: 1, old: 5, new: 7, found: 6), 13, 14),
    ]
    #expect(RegisterSearch(history, final: 6).search() == .linear)
  }

  @Test func `a read of what was overwritten before it is not`() {
    let history = [
      operation(.write(key: 1, value: 5), 0, 1), operation(.write(key: 1, value: 6), 2, 3),
      operation(.read(key: 1, value: 5), 4, 5),
    ]
    #expect(RegisterSearch(history).search() == .none)
    #expect(check(history, registers: [1: 5]).findings.map(\.kind) == [.notLinear])
  }

  @Test func `an acknowledged write that nobody finds again is not`() {
    let history = [operation(.write(key: 1, value: 5), 0, 1), operation(.read(key: 1, value: 0), 2, 3)]
    #expect(RegisterSearch(history).search() == .none)
    #expect(RegisterSearch([history[0]], final: 0).search() == .none)
  }

  @Test func `two swaps of one value can't both succeed`() {
    let history = [
      operation(.swap(key: 1, old: 0, new: 5, found: 5), 0, 10),
      operation(.swap(key: 1, old: 0, new: 6, found: 6), 1, 9),
    ]
    #expect(RegisterSearch(history).search() == .none)
  }

  @Test func `what nobody can say of may come late or never, but not twice`() {
    let unknown = operation(.write(key: 1, value: 5), 0, 1, .unknown)
    let other = operation(.write(key: 1, value: 6), 2, 3)
    #expect(RegisterSearch([unknown, other], final: 6).search() == .linear)
    #expect(RegisterSearch([unknown, other], final: 5).search() == .linear)
    let read = [operation(.read(key: 1, value: 5), 4, 5), operation(.read(key: 1, value: 6), 6, 7)]
    #expect(RegisterSearch([unknown, other] + read).search() == .none)
  }

  @Test(arguments: [1, 2, 3]) func `histories of one order are linear, however they overlap`(_ seed: Int) {
    let chance = SeededRandomness(seed: UInt64(seed))
    var value: Int64 = 0
    var history: [Operation] = []
    for step in 0..<400 {
      let moment = Int64(step) * 10
      let (start, end) = (moment - Int64(chance.below(40)), moment + Int64(chance.below(40)))
      switch chance.below(3) {
      case 0: history.append(operation(.read(key: 1, value: value), start, end))
      case 1:
        value = Int64(step + 1)
        let isKnown = chance.below(20) > 0
        history.append(operation(.write(key: 1, value: value), start, end, isKnown ? .ok : .unknown))
      default:
        let old = chance.below(2) == 0 ? value : -1
        let new = Int64(step + 1)
        if old == value { value = new }
        history.append(operation(.swap(key: 1, old: old, new: new, found: value), start, end))
      }
    }
    #expect(RegisterSearch(history, final: value).search() == .linear)
    let reads = history.indices.filter { if case .read = history[$0].action { true } else { false } }
    let broken = reads[reads.count / 2]
    history[broken].action = .read(key: 1, value: 999_999)
    #expect(RegisterSearch(history, final: value).search() == .none)
  }
}
