import Replay
import Testing

@Suite("the first event that differs") struct FirstDifferenceTests {
  @Test func `is found at every place, with few looks`() async throws {
    for count in 1...70 {
      for planted in 0..<count {
        let found = try await FirstDifference.find(of: count) { $0 <= planted }
        #expect(found?.index == planted, "\(planted) of \(count)")
        #expect(found?.looks ?? 99 <= 8)
      }
    }
  }

  @Test func `is none of them where the beginnings differ`() async throws {
    #expect(try await FirstDifference.find(of: 5) { _ in false } == nil)
  }

  @Test func `is where two sequences part, or one ends`() {
    #expect(FirstDifference.find(in: ["a", "b"], ["a", "b"]) == nil)
    #expect(FirstDifference.find(in: ["a", "b", "c"], ["a", "x", "c"]) == 1)
    #expect(FirstDifference.find(in: ["a"], ["a", "b"]) == 1)
  }
}
