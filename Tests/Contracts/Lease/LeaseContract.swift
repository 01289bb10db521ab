import Core
import StateKit
import Testing

/// What every lease store promises; each case is one test against each store.
package enum LeasePromise: String, CaseIterable, Sendable {
  case oneHolds = "of many who take a seat at once one gets it"
  case fenceGrows = "every tenure has a higher fence than all before"
  case lapses = "a tenure that isn't renewed lapses, and a renewed one lasts"
  case releaseFrees = "a released seat can be taken at once"
  case recordIsFenced = "a record is written only while the tenure lasts"
  case viewShowsAll = "a view shows holder, fence, record and order"
  case seatsAreApart = "seats know nothing of each other"
  case lapsedIsTold = "renewing what has lapsed says so"

  package func keep(_ store: any LeaseStore, period: Duration, wait: @Sendable (Duration) async throws -> Void)
    async throws
  {
    let seat = SeatName(unchecked: "seat-\(self)".lowercased())
    switch self {
    case .oneHolds:
      let winners = try await withThrowingTaskGroup(of: Tenure?.self) { group in
        for number in 0..<8 {
          group.addTask {
            do { return try await store.take(seat, as: Holder("h\(number)"), for: .seconds(30)) } catch LeaseError.taken
            {
              return nil
            }
          }
        }
        return try await group.reduce(into: [Tenure]()) { if let tenure = $1 { $0.append(tenure) } }
      }
      #expect(winners.count == 1)
      #expect(try await store.view(seat).tenure?.holder == winners.first?.holder)
    case .fenceGrows:
      var last = Fence.none
      for number in 0..<5 {
        let tenure = try await store.take(seat, as: Holder("h\(number)"), for: .seconds(30))
        #expect(tenure.fence > last)
        last = tenure.fence
        try await store.release(tenure)
      }
    case .lapses:
      let tenure = try await store.take(seat, as: "first", for: period)
      for _ in 0..<3 {
        try await wait(period / 3)
        try await store.renew(tenure)
      }
      #expect(try await store.view(seat).tenure?.fence == tenure.fence)
      for _ in 0..<100 where try await store.view(seat).tenure != nil { try await wait(period / 4) }
      let next = try await store.take(seat, as: "second", for: period)
      #expect(next.fence > tenure.fence)
    case .releaseFrees:
      let tenure = try await store.take(seat, as: "first", for: .seconds(30))
      await #expect(throws: LeaseError.taken(seat, by: "first")) {
        try await store.take(seat, as: "second", for: period)
      }
      try await store.release(tenure)
      try await store.release(tenure)
      _ = try await store.take(seat, as: "second", for: .seconds(30))
    case .recordIsFenced:
      let first = try await store.take(seat, as: "first", for: .seconds(30))
      try await store.write([1], under: first)
      try await store.release(first)
      await #expect(throws: LeaseError.lapsed(seat, fence: first.fence)) { try await store.write([2], under: first) }
      let second = try await store.take(seat, as: "first", for: .seconds(30))
      await #expect(throws: LeaseError.lapsed(seat, fence: first.fence)) { try await store.write([3], under: first) }
      #expect(try await store.view(seat).record == [1])
      try await store.write([4], under: second)
      #expect(try await store.view(seat).record == [4])
    case .viewShowsAll:
      #expect(try await store.view(seat) == SeatView())
      let tenure = try await store.take(seat, as: "somebody", for: .seconds(30))
      try await store.write(Array("{\"a\":\"ä/\"}".utf8), under: tenure)
      try await store.order([0, 255], on: seat)
      let view = try await store.view(seat)
      #expect(view.tenure?.holder == "somebody" && view.tenure?.fence == tenure.fence)
      #expect(view.record == Array("{\"a\":\"ä/\"}".utf8) && view.order == [0, 255])
    case .seatsAreApart:
      _ = try await store.take(seat, as: "one", for: .seconds(30))
      _ = try await store.take(SeatName(unchecked: seat.text + "-2"), as: "two", for: .seconds(30))
      #expect(try await store.view(SeatName(unchecked: seat.text + "-3")).tenure == nil)
    case .lapsedIsTold:
      let tenure = try await store.take(seat, as: "first", for: .seconds(30))
      try await store.release(tenure)
      await #expect(throws: LeaseError.lapsed(seat, fence: tenure.fence)) { try await store.renew(tenure) }
    }
  }
}
