import Core
import DriverKit

/// Finds the first of many events after which two replays differ.
package enum FirstDifference {
  package struct Found: Sendable, Codable, Hashable {
    /// Of the event, from 0.
    package var index: Int
    /// How many pairs of states were compared.
    package var looks: Int
  }

  /// By halves: what differs after an event is taken to differ after every later one.
  ///
  /// - Parameters:
  ///   - count: How many events there are; after the last the states are known to differ.
  ///   - isSame: Whether the states are the same after so many events; 0 is the state before the first.
  /// - Returns: `nil` if they differ before the first: it is not of the log then.
  package static func find(
    of count: Int, isSame: (_ events: Int) async throws -> Bool
  ) async throws -> Found? {
    var looks = 1
    guard try await isSame(0) else { return nil }
    var (same, other) = (0, count)
    while other - same > 1 {
      let middle = same + (other - same) / 2
      looks += 1
      if try await isSame(middle) { same = middle } else { other = middle }
    }
    return other == 0 ? nil : Found(index: other - 1, looks: looks)
  }

  /// In two sequences of states, one for each event.
  package static func find(in first: [String], _ second: [String]) -> Int? {
    for (index, pair) in zip(first, second).enumerated() where pair.0 != pair.1 { return index }
    return first.count == second.count ? nil : min(first.count, second.count)
  }
}

/// What two replays of the same events came to.
package struct ReplayReport: Sendable, Codable, Hashable {
  package enum Verdict: String, Sendable, Codable { case same, differs }

  package struct Difference: Sendable, Codable, Hashable {
    /// From 0; `nil` if the states differ before the first event.
    package var event: Int?
    package var what: String
    /// Where the event ends in the log, or which line of the events it is.
    package var place: String
    package var parts: [String]
    package var first: String
    package var second: String
    package var looks: Int

    package init(
      event: Int?, what: String, place: String, parts: [String] = [], first: String, second: String, looks: Int
    ) {
      (self.event, self.what, self.place, self.parts) = (event, what, place, parts)
      (self.first, self.second, self.looks) = (first, second, looks)
    }
  }

  package var subject: String
  package var from: String
  package var to: String
  package var events: Int?
  package var times: Int
  package var verdict: Verdict
  /// The digest of the state that was come to, each time.
  package var digests: [String]
  package var difference: Difference?

  package init(
    subject: String, from: String, to: String, events: Int?, digests: [String], difference: Difference?
  ) {
    (self.subject, self.from, self.to, self.events) = (subject, from, to, events)
    (self.digests, self.difference, times) = (digests, difference, digests.count)
    verdict = difference == nil && Set(digests).count <= 1 ? .same : .differs
  }
}

/// Why nothing could be replayed, or nothing can be said about it.
package enum ReplayError: Failure {
  case noDigest(StoreName)
  case noLog(StoreName, String)
  case program(String)
  case badAnswer(line: Int, String)
  case tooManyEvents(Int)
  case badEvents(String)

  package var report: Report {
    switch self {
    case .noDigest(let store):
      Report("REPLAY-101", "the driver of \(store) has no digest of what is brought back")
        .remedy("see docs/operating/replay.md for what each engine can do")
    case .noLog(let store, let why):
      Report("REPLAY-102", "the log of \(store) can't be replayed: \(why)")
        .remedy("`salvor timeline \(store)` shows what there is")
    case .program(let why):
      Report("REPLAY-201", "the program failed: \(why)").remedy("run it by hand with the events on standard input")
    case .badAnswer(let line, let why):
      Report("REPLAY-202", "the program's answer \(line) is none: \(why)")
        .remedy("answer each event with one line: {\"digest\": \"…\"}")
    case .tooManyEvents(let limit):
      Report("REPLAY-103", "there are more than \(limit) events").remedy("replay less: name a later point, or an end")
    case .badEvents(let why):
      Report("REPLAY-104", "the events can't be read: \(why)").remedy("one JSON value in each line")
    }
  }
}
