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
@Suite("RabbitMQ: what was declared a moment ago") struct RabbitMQDeclarationTests {
  /// What one client was told of.
  private final class Answered: Sendable {
    private let state = Mutex((names: [String](), isStopped: false))
    func add(_ name: String) { state.withLock { $0.names.append(name) } }
    func stop() { state.withLock { $0.isStopped = true } }
    var names: [String] { state.withLock { $0.names } }
    var isStopped: Bool { state.withLock { $0.isStopped } }
  }

  /// Keeps processors busy; ended by their pids.
  private static func burners(_ count: Int) throws -> [OwnProcess] {
    try (0..<count).map { _ in try OwnProcess.start(["sh", "-c", "while :; do :; done"]) }
  }

  /// The database writes its log into its tables every three minutes or thousand changes; here it does so all the time.
  @Test(
    .timeLimit(.minutes(60)), arguments: ["", "-mnesia dump_log_time_threshold 200 -mnesia dump_log_write_threshold 5"])
  func `a copy has every queue whose declaration was answered`(_ arguments: String) async throws {
    try await RabbitMQFixture.with(arguments: arguments) { fixture in
      let busy = try Self.burners(4)
      defer {
        for one in busy {
          one.kill()
          _ = one.wait()
        }
      }
      let answered = (0..<3).map { _ in Answered() }
      try await withThrowingTaskGroup(of: Void.self) { group in
        for (index, one) in answered.enumerated() {
          group.addTask {
            let connection = try await fixture.open()
            try await BlockingPool(threads: 1).run {
              var number = 0
              while !one.isStopped {
                number += 1
                let name = "declared-\(index)-\(number)"
                try connection.declare(name, index == 0 ? [("x-queue-type", .text("quorum"))] : [])
                one.add(name)
                // Not so many that the node has no room for them.
                usleep(20_000)
              }
              connection.close()
            }
          }
        }
        let result: Result<Void, any Error>
        do {
          for round in 0..<5 { try await Self.round(round, fixture, answered) }
          result = .success(())
        } catch { result = .failure(error) }
        for one in answered { one.stop() }
        try await group.waitForAll()
        try result.get()
      }
    }
  }

  /// A node that finds the queues of owners who are no more deletes them, and begins to serve before it is done.
  @Test(.timeLimit(.minutes(60)))
  func `durable queues of one connection are not in a copy, however many a node has to delete first`() async throws {
    try await RabbitMQFixture.with { fixture in
      let owner = try await fixture.open()
      try await clients.run {
        try owner.declareExchange("letters", "fanout")
        for number in 0..<400 {
          try owner.declare("mine \(number)", isExclusive: true)
          try owner.bind("mine \(number)", to: "letters")
        }
        try owner.declare("plain")
        try owner.bind("plain", to: "letters")
      }
      let captured = try await fixture.capture()
      await clients.run { owner.close() }
      #expect(captured.result.contentDigest?.parts.keys.sorted() == ["%2F/plain", "%2F/records", "definitions"])
      let file = try await captured.tree.contents(of: Description.definitions, limitBytes: 1 << 24)
      #expect(String(decoding: file, as: UTF8.self).contains("\"mine ") == false, "no binding of theirs")
      try await fixture.restore(captured)
      #expect(try await fixture.browse("plain").isEmpty)
    }
  }

  private static func round(_ round: Int, _ fixture: RabbitMQFixture, _ answered: [Answered]) async throws {
    let scratch = try TemporaryDirectory("scratch")
    let session = try await fixture.driver(.usual).capture(CaptureContext(sink: MemoryTree(), scratch: scratch.path))
    do {
      try await session.prepare()
      let begun = answered.map(\.names.count)
      while !zip(answered, begun).allSatisfy({ $0.names.count > $1 }) {
        try await SystemTime().sleep(for: .milliseconds(10))
      }
      try await session.hold(limit: .seconds(60))
      _ = try await session.mark()
      let names = answered.flatMap(\.names)
      try promise(await session.release(), "the hold was in force to the end")
      let missing = try await clients.run { try Self.missing(names, in: "\(scratch.path)/rabbitmq") }
      #expect(missing == "", "round \(round), of \(names.count)")
      await session.close()
    } catch {
      await session.close()
      throw error
    }
  }

  /// What Erlang finds in the files of the database: each line a name that is not there.
  private static func missing(_ names: [String], in copy: String) throws -> String {
    let list = "\(copy)/names"
    try Files.replace(list, with: Array(names.joined(separator: "\n").utf8))
    let program = """
      [Dir, List] = init:get_plain_arguments(),
      Apply = fun
        A({{rabbit_durable_queue, {resource, _, queue, Name}}, _, write}, Set) -> Set#{Name => true};
        A({{rabbit_durable_queue, {resource, _, queue, Name}}, _, _}, Set) -> maps:remove(Name, Set);
        A(Term, Set) when element(1, Term) =:= amqqueue -> Set#{element(4, element(2, Term)) => true};
        A(Term, Set) when element(1, Term) =:= commit ->
          lists:foldl(A, Set, lists:append([List || List <- tuple_to_list(Term), is_list(List)]));
        A(_, Set) -> Set
      end,
      Chunks = fun C(Log, At, Set) ->
        case disk_log:chunk(Log, At) of
          eof -> Set;
          {Next, Terms} -> C(Log, Next, lists:foldl(Apply, Set, Terms));
          {Next, Terms, Bad} -> io:format("bad ~p ~p~n", [Log, Bad]), C(Log, Next, lists:foldl(Apply, Set, Terms))
        end
      end,
      Found = lists:foldl(fun(Name, Set) ->
        File = filename:join(Dir, Name),
        case filelib:is_regular(File) of
          false -> Set;
          true ->
            {ok, Log} = disk_log:open([{name, Name}, {file, File}, {mode, read_only}]),
            Chunks(Log, start, Set)
        end
      end, #{}, ["rabbit_durable_queue.DCD", "rabbit_durable_queue.DCL", "PREVIOUS.LOG", "LATEST.LOG"]),
      {ok, Text} = file:read_file(List),
      [io:format("~s~n", [Name]) || Name <- binary:split(Text, <<"\\n">>, [global]), not maps:is_key(Name, Found)],
      halt(0).
      """
    let result = try OwnProcess.run([
      "env", "HOME=\(copy)", "ERL_CRASH_DUMP_SECONDS=0", "erl", "-noshell", "-noinput", "-boot", "no_dot_erlang",
      "-eval",
      program, "-extra", copy, list,
    ])
    try promise(result.code == 0, "erl: \(result.code) \(result.output)")
    return result.output
  }
}
