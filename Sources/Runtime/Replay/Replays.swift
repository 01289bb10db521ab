import Catalog
import Core
import DriverKit
import IO
import Recovery
import Replay
import StateKit

/// Replays what a store's log recorded, more than once, and compares what it leads to.
package struct Replays: Sendable {
  package struct Request: Sendable {
    package var store: StoreName
    /// A point's id, or its beginning; the newest that leads there if none is named.
    package var from: String?
    package var to = ForwardTarget.newest
    package var times = 2

    package init(_ store: StoreName) { self.store = store }
  }

  let system: ManagedSystem
  let journal: any RunJournal

  package init(_ system: ManagedSystem, journal: any RunJournal) { (self.system, self.journal) = (system, journal) }

  static let eventLimit = 1_000_000

  /// Brings the store back beside several times, from the same copy along the same log, and compares the digests.
  package func replay(
    _ request: Request, progress: @escaping @Sendable (String) -> Void = { _ in }
  ) async throws(AnyFailure) -> ReplayReport {
    do {
      let store = request.store
      return try await RecordedAct.carryOut(
        .replay, "replay/\(store)", details: ["times": .integer(Int64(request.times))], host: system.host,
        journal: journal
      ) { _ in
        let report = try await journal.whileReading([store], time: system.host.time) {
          try await system.holdingRepositories(of: [store], until: ReadingEnd()) {
            try await replaying(request, progress)
          }
        }
        let details: JSONValue = [
          "verdict": .string(report.verdict.rawValue), "from": .string(report.from), "to": .string(report.to),
          "digests": .array(report.digests.map { .string($0) }),
        ]
        return (report, details)
      }
    } catch { throw AnyFailure(RunsError.of(error)) }
  }

  private func replaying(
    _ request: Request, _ progress: @escaping @Sendable (String) -> Void
  ) async throws -> ReplayReport {
    let forward = try await forward(request)
    let name = "replay-\(Hex.encode(system.host.randomness.bytes(6)))"
    var digests: [ContentDigest] = []
    for time in 1...max(2, request.times) {
      progress("replaying \(request.store), \(time) of \(max(2, request.times))")
      digests.append(try await digest(request.store, along: forward, name: "\(name)-\(time)"))
    }
    let isSame = Set(digests).count == 1
    let events = try await events(request.store, along: forward, name: name)
    var difference: ReplayReport.Difference?
    if !isSame {
      progress("looking for the first event after which they differ")
      difference = try await firstDifference(request.store, forward, events ?? [], digests, name: name, progress)
    }
    return ReplayReport(
      subject: request.store.text, from: "point \(forward.point) at \(forward.from)",
      to: forward.time.map { "\($0)" } ?? forward.through.description, events: events?.count,
      digests: try digests.map { try CanonicalJSON.digest($0).hex }, difference: difference)
  }

  func forward(_ request: Request) async throws -> LogForward {
    let ways: [LogForward]
    do { ways = try await Logs(system).forwards(request.store, to: request.to) } catch {
      throw ReplayError.noLog(request.store, AnyFailure(error).report.summary)
    }
    let wanted = ways.filter { way in request.from.map { way.point.text.hasPrefix($0) } ?? true }
    // One that was named is taken as it is.
    guard let forward = request.from == nil ? try await system.firstGood(wanted, of: request.store) : wanted.first
    else {
      throw ReplayError.noLog(request.store, "no log leads there from point \(request.from ?? "")")
    }
    return forward
  }

  /// - Parameter forward: `nil` ends at the copy's mark.
  private func digest(_ store: StoreName, along forward: LogForward, name: String, isMark: Bool = false) async throws
    -> ContentDigest
  {
    var copy = try await system.copy(of: store, along: forward)
    if isMark { copy.replay = nil }
    return try await system.withCopy(of: store, copy, name: name) { beside in
      guard let digest = try await beside.driver.digestBeside(beside.request) else { throw ReplayError.noDigest(store) }
      return digest
    }
  }

  /// What the log tells between the copy's mark and the end; `nil` where nobody can tell it apart.
  func events(_ store: StoreName, along forward: LogForward, name: String) async throws -> [LogEvent]? {
    guard let follower = try system.driver(of: store).follower(),
      let source = try await system.copy(of: store, along: forward).replay?.source
    else { return nil }
    let host = system.host
    let (directory, scratch) = (host.path("replay"), host.path("replay/\(name)"))
    try await host.pool.run { () throws(SystemFailure) in try Files.createDirectory(directory, mode: 0o700) }
    let result: Result<[LogEvent]?, any Error>
    do {
      result = .success(
        try await follower.events(in: source, from: forward.from, scratch: scratch, limit: Self.eventLimit + 1))
    } catch { result = .failure(error) }
    await host.pool.run { try? Files.removeTree(scratch) }
    guard let events = try result.get() else { return nil }
    guard events.count <= Self.eventLimit else { throw ReplayError.tooManyEvents(Self.eventLimit) }
    return events
  }

  private func firstDifference(
    _ store: StoreName, _ forward: LogForward, _ events: [LogEvent], _ digests: [ContentDigest], name: String,
    _ progress: @escaping @Sendable (String) -> Void
  ) async throws -> ReplayReport.Difference {
    func pair(after count: Int) async throws -> [ContentDigest] {
      var way = forward
      if count > 0, count < events.count { (way.through, way.target) = (events[count - 1].end, .newest) }
      var pair: [ContentDigest] = []
      for time in 1...2 {
        pair.append(try await digest(store, along: way, name: "\(name)-\(count)-\(time)", isMark: count == 0))
      }
      return pair
    }
    var seen: [Int: [ContentDigest]] = [events.count: Array(digests.prefix(2))]
    let found = try await FirstDifference.find(of: events.count) { count in
      progress("comparing after \(count) of \(events.count) events")
      let states = try await pair(after: count)
      seen[count] = states
      return states[0] == states[1]
    }
    // Of more than two replays the third may be the one that differs.
    let states = found.flatMap { seen[$0.index + 1] } ?? seen[0] ?? digests
    let other = digests.first { $0 != digests[0] } ?? digests[0]
    let (a, b) = states[0] == states[1] ? (digests[0], other) : (states[0], states[1])
    let event = found.map { events[$0.index] }
    return ReplayReport.Difference(
      event: found?.index, what: event?.what ?? "before the first event, or the log's events can't be told apart",
      place: event?.end.description ?? forward.from.description, parts: a.differences(from: b),
      first: try CanonicalJSON.digest(a).hex, second: try CanonicalJSON.digest(b).hex, looks: found?.looks ?? 1)
  }
}

extension RunKind {
  static let replay: RunKind = "replay"
}
