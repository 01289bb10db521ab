import Catalog
import Core
import DriverKit
import IO
import Replay
import StateKit
import Subprocess

extension Replays {
  /// Where a program's events come from.
  package enum Events: Sendable {
    /// A store's log.
    case log(Request)
    /// A store's answer, row by row; such as the messages of a stream.
    case query(StoreName, String)
    /// Lines of JSON.
    case file(String)
  }

  /// Gives the same events to a program several times, each time from the same starting state, and compares what it says of
  /// its state after each.
  ///
  /// - Parameter state: A directory that is copied for each time; an empty one if none is named.
  package func replay(
    _ events: Events, program words: [String], state: String?, times: Int,
    progress: @escaping @Sendable (String) -> Void = { _ in }
  ) async throws(AnyFailure) -> ReplayReport {
    do {
      let (subject, from, lines) = try await lines(of: events)
      return try await RecordedAct.carryOut(
        .replay, "replay/\(subject)",
        details: ["program": .string(words.first ?? ""), "events": .integer(Int64(lines.count))], host: system.host,
        journal: journal
      ) { _ in
        var answers: [[ProgramAnswer]] = []
        for time in 1...max(2, times) {
          progress("\(words.first ?? "the program"), \(time) of \(max(2, times))")
          answers.append(try await run(words, lines, state: state))
        }
        let report = try report(subject, from, lines, answers)
        return (report, ["verdict": .string(report.verdict.rawValue)])
      }
    } catch { throw AnyFailure(RunsError.of(error)) }
  }

  private func lines(of events: Events) async throws -> (subject: String, from: String, lines: [String]) {
    switch events {
    case .log(let request):
      let forward = try await forward(request)
      let name = "replay-\(Hex.encode(system.host.randomness.bytes(6)))"
      let found = try await system.holdingRepositories(of: [request.store], until: ReadingEnd()) {
        try await self.events(request.store, along: forward, name: name)
      }
      guard let found else { throw ReplayError.noLog(request.store, "its events can't be told apart") }
      return (request.store.text, "point \(forward.point)", try found.map { try CanonicalJSON.text($0.payload) })
    case .query(let store, let text):
      let limit = QueryLimit(rows: Self.eventLimit, timeout: .seconds(300))
      let answer = try await system.driver(of: store).query(text, limit: limit)
      guard !answer.isTruncated else { throw ReplayError.tooManyEvents(Self.eventLimit) }
      let lines = try answer.rows.map { row in
        var object: [String: JSONValue] = [:]
        for (column, value) in zip(answer.columns, row) { object[column] = value.map { .string($0) } ?? .null }
        return try CanonicalJSON.text(JSONValue.object(object))
      }
      return (store.text, text, lines)
    case .file(let path):
      let bytes = try await system.host.pool.run { () throws(SystemFailure) in
        try Files.read(path, limitBytes: 1 << 30)
      }
      guard let text = String(validating: bytes, as: UTF8.self) else {
        throw ReplayError.badEvents("\(path) is not UTF-8")
      }
      let lines = text.split(whereSeparator: \.isNewline).map(String.init)
      guard lines.count <= Self.eventLimit else { throw ReplayError.tooManyEvents(Self.eventLimit) }
      for (number, line) in lines.enumerated()
      where (try? CanonicalJSON.decode(JSONValue.self, from: Array(line.utf8))) == nil {
        throw ReplayError.badEvents("line \(number + 1) of \(path) is not JSON")
      }
      return (Files.last(of: path), path, lines)
    }
  }

  /// What a program said of its state after so many events.
  private struct ProgramAnswer: Sendable, Equatable {
    var after: Int
    var digest: String
  }

  private func run(_ words: [String], _ lines: [String], state: String?) async throws -> [ProgramAnswer] {
    let host = system.host
    let place = host.path("replay/program-\(Hex.encode(host.randomness.bytes(6)))")
    try await host.pool.run { () throws(SystemFailure) in
      try Files.createDirectory(host.path("replay"), mode: 0o700)
      try Files.createDirectory(place, mode: 0o700)
    }
    let result: Result<[ProgramAnswer], any Error>
    do {
      if let state {
        let copied = try await execute(
          Command(["cp", "-a", "--", "\(state)/.", place], timeout: .seconds(3600)), host.secrets)
        guard copied.status == 0 else { throw ReplayError.program("its starting state \(state) can't be copied") }
      }
      let command = Command(
        words, environment: ["SALVOR_REPLAY_STATE": .text(place)], workingDirectory: place, timeout: .seconds(3600))
      let input = Array(lines.map { $0 + "\n" }.joined().utf8)
      let answer = try await execute(command, host.secrets, input: input)
      guard answer.status == 0 else { throw ReplayError.program("it ended with status \(answer.status)") }
      result = .success(try Self.answers(answer.output, events: lines.count))
    } catch { result = .failure(error) }
    await host.pool.run { try? Files.removeTree(place) }
    return try result.get()
  }

  private static func answers(_ text: String, events: Int) throws -> [ProgramAnswer] {
    var answers: [ProgramAnswer] = []
    for (number, line) in text.split(whereSeparator: \.isNewline).enumerated() {
      guard let value = try? CanonicalJSON.decode(JSONValue.self, from: Array(line.utf8)),
        let digest = value["digest"]?.string, digest.utf8.count <= 4096
      else { throw ReplayError.badAnswer(line: number + 1, "it has no digest") }
      let after = value["after"]?.integer.map { Int($0) } ?? number + 1
      guard after > answers.last?.after ?? 0, after <= events else {
        throw ReplayError.badAnswer(line: number + 1, "it is about \(after) of \(events) events")
      }
      answers.append(ProgramAnswer(after: after, digest: digest))
    }
    guard answers.last?.after == events || events == 0 else {
      throw ReplayError.program("it said nothing of its state after the last of \(events) events")
    }
    return answers
  }

  private func report(
    _ subject: String, _ from: String, _ lines: [String], _ answers: [[ProgramAnswer]]
  ) throws -> ReplayReport {
    var difference: ReplayReport.Difference?
    for other in answers.dropFirst() {
      let (first, second) = (answers[0].map { "\($0.after) \($0.digest)" }, other.map { "\($0.after) \($0.digest)" })
      guard let index = FirstDifference.find(in: first, second) else { continue }
      let after = answers[0].indices.contains(index) ? answers[0][index].after : other[index].after
      let before = index > 0 ? answers[0][index - 1].after : 0
      guard difference.map({ after - 1 < $0.event ?? 0 }) ?? true else { continue }
      difference = ReplayReport.Difference(
        event: after - 1, what: String(lines[after - 1].prefix(200)),
        place: after - before > 1 ? "events \(before + 1) to \(after)" : "event \(after)",
        first: answers[0].indices.contains(index) ? answers[0][index].digest : "",
        second: other.indices.contains(index) ? other[index].digest : "", looks: 1)
    }
    return ReplayReport(
      subject: subject, from: from, to: "event \(lines.count)", events: lines.count,
      digests: answers.map { $0.last?.digest ?? "" }, difference: difference)
  }
}
