import Core
import Planning
import Testing

@Suite("Choosing a point")
struct ChoosePointTests {
  private func facts(
    _ id: String, _ seconds: Int64, mode: PointFacts.Mode = .barrier, verified: Bool = true,
    _ states: [StoreName: StoreFacts.State] = ["a": .held, "b": .held]
  ) -> PointFacts {
    PointFacts(
      id: id, time: Timestamp(seconds: seconds), mode: mode, isVerified: verified,
      stores: states.mapValues { StoreFacts($0) })
  }

  @Test func `the newest that will do is taken, and each newer one is explained`() {
    let points = [
      facts("p1", 1), facts("p2", 2), facts("p3", 3, verified: false), facts("p4", 4, mode: .fuzzy),
      facts("p5", 5, ["a": .held]), facts("p6", 6, ["a": .corrupt("bad pack"), "b": .outside("no snapshot")]),
      facts("p7", 7),
    ]
    let choice = choosePoint(points, at: Timestamp(seconds: 6), stores: ["a", "b"])
    #expect(choice.point?.id == "p2")
    #expect(choice.rejected.map(\.point) == ["p7", "p6", "p5", "p4", "p3"])
    #expect(
      choice.rejected.map(\.reasons) == [
        ["later than 1970-01-01T00:00:06Z"],
        ["store 'a' is damaged: bad pack", "store 'b' is outside the cut: no snapshot"],
        ["store 'b' is missing"], ["fuzzy: its stores stand at different moments"], ["never verified"],
      ])
    #expect(choosePoint(points, stores: ["a", "b"]).point?.id == "p7")
    #expect(choosePoint(points.shuffled(), at: Timestamp(seconds: 6), stores: ["b", "a"]) == choice)
  }

  @Test func `one store alone needs no consistency with others`() {
    let points = [facts("p1", 1), facts("p2", 2, mode: .fuzzy, ["a": .outside("no snapshot")])]
    #expect(choosePoint(points, stores: ["a"]).point?.id == "p2")
  }

  @Test func `none is a failure that says why`() {
    #expect(throws: PlanError.self) { try choosePoint([], stores: ["a"]).get() }
    #expect {
      try choosePoint([facts("p1", 1, verified: false)], stores: ["a"]).get()
    } throws: {
      "\($0)".contains("p1: never verified")
    }
  }
}
