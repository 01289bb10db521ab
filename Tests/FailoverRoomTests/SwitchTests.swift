import FailoverRig
import Testing

@Suite("What a switch does with packets") struct SwitchTests {
  @Test func `what nobody has ruled on passes at once`() {
    var rules = PacketRules(hosts: 3, seed: 1)
    for from in 0..<3 { for to in 0..<3 { #expect(rules.fate(from: from, to: to, at: 5) == .pass) } }
  }

  @Test func `a cut holds in the direction it was made for`() {
    var rules = PacketRules(hosts: 2, seed: 1)
    rules[0, 1] = .cut
    #expect(rules.fate(from: 0, to: 1, at: 5) == .drop)
    #expect(rules.fate(from: 1, to: 0, at: 5) == .pass)
  }

  @Test(arguments: [10, 100, 500]) func `so many in a thousand are lost, the same ones for the same seed`(_ loss: Int) {
    func fates(_ seed: UInt64) -> [PacketRules.Fate] {
      var rules = PacketRules(hosts: 2, seed: seed)
      rules[0, 1] = NetworkRule(lossThousandths: loss)
      return (0..<10_000).map { rules.fate(from: 0, to: 1, at: Int64($0)) }
    }
    let lost = fates(7).count { $0 == .drop }
    #expect((loss * 8...loss * 12).contains(lost), "\(lost) of 10000")
    #expect(fates(7) == fates(7))
    #expect(fates(7) != fates(8))
  }

  @Test func `delayed packets stay in order, also behind a delay that shrinks`() {
    var rules = PacketRules(hosts: 2, seed: 3)
    rules[0, 1] = NetworkRule(delayMicroseconds: 5000, jitterMicroseconds: 4000)
    var last: Int64 = 0
    for packet in 0..<1000 {
      let now = Int64(packet) * 10_000
      guard case .wait(let due) = rules.fate(from: 0, to: 1, at: now) else {
        Issue.record("packet \(packet) didn't wait")
        continue
      }
      #expect(due >= last)
      #expect(due - now >= 5_000_000 || due == last)
      #expect(due - now <= 9_000_000)
      last = due
    }
    rules[0, 1] = .open
    #expect(rules.fate(from: 0, to: 1, at: 10_000_000) == .wait(untilNanoseconds: last))
    #expect(rules.fate(from: 0, to: 1, at: last) == .pass)
  }
}
