import Core
import DriverContract
import DriverKit
import Glibc
import IO
import Synchronization
import TestSupport
import Testing

@testable import DriverRabbitMQ

/// What was declared a moment before the cut, while the machine is busy.
@Suite("RabbitMQ: what was declared a moment ago", .serialized) struct RabbitMQDeclarationTests {
  // MARK: Outcomes that are in no file

  /// The process that logs outcomes is stopped, as on a machine that has no time for it: everything is answered, and no outcome is
  /// written. Without the copy's completion everything below is as if it had never been asked for.
  @Test(.timeLimit(.minutes(60)))
  func `a copy has what was answered, though its outcome is in no file`() async throws {
    try await RabbitMQFixture.with { fixture in
      try await fixture.with { connection in
        try connection.declare("goes")
        try connection.declareExchange("letters", "fanout")
        try connection.declare("bound")
        try connection.bind("bound", to: "letters")
      }
      try await fixture.call("sys, suspend, [mnesia_recover]")
      let captured: Taken
      do {
        try await fixture.with { connection in
          try connection.declare("classic")
          try connection.declare("quorum", [("x-queue-type", .text("quorum"))])
          try connection.declare("lease", [("x-expires", .number(6_000_000))])
          try connection.declareExchange("parcels", "topic")
          try connection.bind("classic", to: "parcels", "a.*")
          try connection.unbind("bound", from: "letters")
          try connection.delete("goes")
          try connection.confirm()
          for queue in ["classic", "quorum"] { try connection.publish(Array(queue.utf8), queue) }
          try connection.waitForConfirms(2)
        }
        captured = try await fixture.capture()
        try await fixture.call("sys, resume, [mnesia_recover]")
      } catch {
        try? await fixture.call("sys, resume, [mnesia_recover]")
        throw error
      }
      let completed = Int(captured.result.facts["completed"] ?? "") ?? 0
      try promise(completed >= 7, "outcomes were missing: \(completed)")
      let evidence = await fixture.evidence(captured.result)
      let parts = captured.result.contentDigest?.parts ?? [:]
      #expect(
        parts.keys.sorted() == ["%2F/bound", "%2F/classic", "%2F/quorum", "%2F/records", "definitions"], "\(evidence)")
      #expect(parts["%2F/classic"]?.count == 1 && parts["%2F/quorum"]?.count == 1, "\(evidence)")
      #expect(captured.result.notes.contains { $0.contains("%2F/lease") }, "\(evidence)")
      try await fixture.restore(captured)
      for queue in ["classic", "quorum"] {
        #expect(try await fixture.browse(queue).map(\.body) == [Array(queue.utf8)], "\(evidence)")
      }
      try await fixture.with { connection in
        try connection.confirm()
        // Nobody is bound to the first any more, and one is to the second.
        try connection.publish(Array("x".utf8), to: "letters", "")
        try connection.publish(Array("y".utf8), to: "parcels", "a.b")
        try connection.waitForConfirms(2)
      }
      #expect(try await fixture.browse("bound").isEmpty, "\(evidence)")
      #expect(
        try await fixture.browse("classic").map(\.body) == [Array("classic".utf8), Array("y".utf8)], "\(evidence)")
      #expect(try await fixture.browse("lease").isEmpty)
      await #expect(throws: WireError.self) { try await fixture.with { try $0.drain("goes", isFinal: false) { _ in } } }
    }
  }

  // MARK: A busy machine

  /// What one client asked for and was told of.
  private final class Client: Sendable {
    private struct State {
      var events: [(name: String, what: String, at: Int64)] = []
      var present: Set<String> = []
      var gone: Set<String> = []
      var asked: Set<String> = []
      var answers = 0
      var isStopped = false

      mutating func add(_ name: String, _ what: String) {
        events.append((name, what, SystemTime().monotonicNanoseconds()))
      }
    }
    private let state = Mutex(State())

    func asks(toDelete name: String) {
      state.withLock { state in
        state.add(name, "asked to delete")
        state.asked.insert(name)
      }
    }
    func declared(_ name: String) {
      state.withLock { state in
        state.add(name, "declared")
        state.present.insert(name)
        state.answers += 1
      }
    }
    func deleted(_ name: String) {
      state.withLock { state in
        state.add(name, "deleted")
        state.gone.insert(name)
        state.answers += 1
      }
    }
    func stop() { state.withLock { $0.isStopped = true } }

    var answers: Int { state.withLock { $0.answers } }
    var isStopped: Bool { state.withLock { $0.isStopped } }
    /// What was answered so far; a queue that is being deleted may be there or not.
    var known: (present: Set<String>, gone: Set<String>) {
      state.withLock { ($0.present.subtracting($0.asked), $0.gone) }
    }
    func history(of name: String) -> String {
      state.withLock { state in
        state.events.filter { $0.name == name }.map { "\($0.what) at \($0.at)" }.joined(separator: ", ")
      }
    }
  }

  /// Keeps processors busy; ended by their pids.
  private static func burners(_ count: Int) throws -> [OwnProcess] {
    try (0..<count).map { _ in try OwnProcess.start(["sh", "-c", "while :; do :; done"]) }
  }

  /// The database writes its log into its tables every three minutes or thousand changes; here it does so all the time.
  @Test(.timeLimit(.minutes(60)))
  func `a copy has every queue whose declaration was answered, and none whose deletion was`() async throws {
    let often = "-mnesia dump_log_time_threshold 200 -mnesia dump_log_write_threshold 5"
    try await RabbitMQFixture.with(arguments: often) { fixture in
      let busy = try Self.burners(2)
      defer {
        for one in busy {
          one.kill()
          _ = one.wait()
        }
      }
      let all = (0..<3).map { _ in Client() }
      try await withThrowingTaskGroup(of: Void.self) { group in
        for (index, one) in all.enumerated() {
          group.addTask {
            do {
              let connection = try await fixture.open()
              try await BlockingPool(threads: 1).run { try Self.work(connection, as: one, index) }
            } catch {
              // Nobody waits for its answers any more.
              one.stop()
              throw error
            }
          }
        }
        let result: Result<Void, any Error>
        do {
          for round in 0..<5 { try await Self.round(round, fixture, all) }
          result = .success(())
        } catch { result = .failure(error) }
        for one in all { one.stop() }
        try await group.waitForAll()
        try result.get()
      }
    }
  }

  /// Declares one after the other, and deletes all but the last few.
  private static func work(_ connection: Connection, as one: Client, _ index: Int) throws {
    var number = 0
    var there: [String] = []
    while !one.isStopped {
      number += 1
      let name = "declared-\(index)-\(number)"
      // Few quorum queues, and none that is deleted: one that is just then is a reason to take the point again.
      let isQuorum = index == 0 && number % 20 == 0
      try connection.declare(name, isQuorum ? [("x-queue-type", .text("quorum"))] : [])
      one.declared(name)
      if !isQuorum { there.append(name) }
      if there.count > 10 {
        let old = there.removeFirst()
        one.asks(toDelete: old)
        try connection.delete(old)
        one.deleted(old)
      }
      usleep(20_000)
    }
    connection.close()
  }

  private static func round(_ round: Int, _ fixture: RabbitMQFixture, _ all: [Client]) async throws {
    let scratch = try TemporaryDirectory("scratch")
    let driver = try #require(try fixture.driver(.usual) as? RabbitMQDriver)
    let session = try await driver.capture(CaptureContext(sink: MemoryTree(), scratch: scratch.path))
    do {
      try await session.prepare()
      let begun = all.map(\.answers)
      while !zip(all, begun).allSatisfy({ $0.answers > $1 }) {
        try promise(!all.contains(where: \.isStopped), "every client goes on; \(fixture.server.log.suffix(4000))")
        try await SystemTime().sleep(for: .milliseconds(10))
      }
      try await session.hold(limit: .seconds(60))
      let held = SystemTime().monotonicNanoseconds()
      let position = try await session.mark()
      let known = all.map(\.known)
      try promise(await session.release(), "the hold was in force to the end")
      let copy = "\(scratch.path)/rabbitmq"
      let before = try await clients.run { try Self.files(copy) }
      let completed = try await driver.complete(copy, RabbitMQServer.node, as: copy)
      let found = try await clients.run { try Self.queues(in: copy) }
      for (one, known) in zip(all, known) {
        let missing = known.present.subtracting(found)
        let wrong = missing.union(known.gone.intersection(found)).sorted()
        #expect(
          wrong.isEmpty,
          """
          round \(round): held at \(held), \(completed) outcomes completed; of \(known.present.count) queues these are wrong:
          \(wrong.map { "\($0) \(missing.contains($0) ? "is missing" : "is there"): \(one.history(of: $0))" }.joined(separator: "\n"))
          the copy's files before it was completed: \(before)
          the copy at \(position.value) has \(found.sorted().joined(separator: " "))
          the node's log:
          \(fixture.server.log.suffix(4000))
          """)
      }
      await session.close()
    } catch {
      await session.close()
      throw error
    }
  }

  /// Name, size and time of the last change of what the database has.
  private static func files(_ copy: String) throws -> String {
    try Files.names(in: copy).map(\.lossyText).filter { $0.hasSuffix("LOG") || $0.hasPrefix("rabbit_durable_queue") }
      .sorted().map { name in "\(name) \(try File("\(copy)/\(name)", O_RDONLY).status().st_size)" }
      .joined(separator: ", ")
  }

  /// The queues of a copy, as Erlang finds them in the files of the database: a transaction counts with its outcome only.
  private static func queues(in copy: String) throws -> Set<String> {
    let program = """
      [Dir] = init:get_plain_arguments(),
      Chunks = fun C(Log, At, Found) ->
        case disk_log:chunk(Log, At) of
          eof -> lists:append(lists:reverse(Found));
          {Next, Terms} -> C(Log, Next, [Terms | Found]);
          {Next, Terms, _} -> C(Log, Next, [Terms | Found])
        end
      end,
      Terms = fun(Name) ->
        File = filename:join(Dir, Name),
        case filelib:is_regular(File) andalso filelib:file_size(File) >= 8 of
          false -> [];
          true ->
            {ok, Log} = disk_log:open([{name, Name}, {file, File}, {mode, read_only}]),
            Chunks(Log, start, [])
        end
      end,
      Logs = lists:flatmap(Terms, ["PREVIOUS.LOG", "LATEST.LOG"]),
      Made = [element(2, Term) || Term <- Logs, element(1, Term) =:= decision, element(3, Term) =:= committed],
      Counts = fun
        ({decision, Tid, presume_abort, _, _}) -> lists:member(Tid, Made);
        (presume_commit) -> true
      end,
      Apply = fun
        ({{rabbit_durable_queue, {resource, _, queue, Name}}, _, write}, Set) -> Set#{Name => true};
        ({{rabbit_durable_queue, {resource, _, queue, Name}}, _, _}, Set) -> maps:remove(Name, Set);
        (Term, Set) when element(1, Term) =:= amqqueue -> Set#{element(4, element(2, Term)) => true};
        (_, Set) -> Set
      end,
      Changes = fun(Commit) ->
        case Counts(element(3, Commit)) of
          true -> lists:append([List || List <- tuple_to_list(Commit), is_list(List)]);
          false -> []
        end
      end,
      Tables = lists:flatmap(Terms, ["rabbit_durable_queue.DCD", "rabbit_durable_queue.DCL"]),
      Logged = lists:flatmap(Changes, [Term || Term <- Logs, element(1, Term) =:= commit]),
      ok = file:write_file(filename:join(Dir, "names"),
        [[Name, $\\n] || Name <- maps:keys(lists:foldl(Apply, #{}, Tables ++ Logged))]),
      halt(0).
      """
    let result = try OwnProcess.run([
      "env", "HOME=\(copy)", "ERL_CRASH_DUMP_SECONDS=0", "erl", "-noshell", "-noinput", "-boot", "no_dot_erlang",
      "-eval", program, "-extra", copy,
    ])
    try promise(result.code == 0, "erl: \(result.code) \(result.output)")
    let names = try Files.read("\(copy)/names", limitBytes: 1 << 24)
    return Set(String(decoding: names, as: UTF8.self).split(separator: "\n").map(String.init))
  }

  // MARK: Queues whose owner goes

  /// A node that finds the queues of owners who are no more deletes them, and begins to serve before it is done.
  @Test(.timeLimit(.minutes(60)))
  func `durable queues of one connection are not in a copy, however many a node has to delete first`() async throws {
    try await RabbitMQFixture.with { fixture in
      let owner = try await fixture.open()
      try await clients.run {
        try owner.declareExchange("letters", "fanout")
        for number in 0..<100 {
          try owner.declare("mine \(number)", isExclusive: true)
          try owner.bind("mine \(number)", to: "letters")
        }
        try owner.declare("plain")
        try owner.bind("plain", to: "letters")
      }
      let captured = try await fixture.capture()
      await clients.run { owner.close() }
      let evidence = await fixture.evidence(captured.result)
      #expect(
        captured.result.contentDigest?.parts.keys.sorted() == ["%2F/plain", "%2F/records", "definitions"], "\(evidence)"
      )
      let file = try await captured.tree.contents(of: Description.definitions, limitBytes: 1 << 24)
      #expect(String(decoding: file, as: UTF8.self).contains("\"mine ") == false, "no binding of theirs; \(evidence)")
      try await fixture.restore(captured)
      #expect(try await fixture.browse("plain").isEmpty)
    }
  }
}
