import Core
import IO
import ServiceExec
import StateKit
import TestSupport
import Testing

#if canImport(Glibc)
  import Glibc
#endif

@Suite("Services as processes", .timeLimit(.minutes(10)))
struct ServiceTests {
  private let directory: TemporaryDirectory
  private let runner: ExecServiceRunner

  init() throws {
    directory = try TemporaryDirectory("service")
    runner = ExecServiceRunner(
      stateDirectory: directory.file("services"), time: SystemTime(),
      resolve: { reference throws(AnyFailure) in
        if case .environment(let name) = reference { return Secret("secret of \(name)") }
        throw AnyFailure(SystemFailure("open", path: "\(reference)", number: ENOENT))
      },
      runQuery: { _, query, _ in query == "empty" ? [] : [[query]] })
  }

  private func sh(_ script: String, timeout: Int64 = 5000) -> ServiceCommand {
    ServiceCommand(["sh", "-c", script], timeoutMilliseconds: timeout)
  }

  private func daemon(_ script: String, ready: [ReadyCheck] = []) -> ServiceUnit {
    ServiceUnit(
      name: "echo", mode: .daemon, start: sh(script), stopTimeoutMilliseconds: 300, ready: ready)
  }

  /// Runs `body`, and stops the service whatever happens.
  private func with(_ service: ServiceUnit, _ body: (Int32) async throws -> Void) async throws {
    guard case .started(let pid) = try await runner.start(service) else {
      Issue.record("was running before")
      return
    }
    do { try await body(pid) } catch {
      try await runner.stop(service)
      throw error
    }
    try await runner.stop(service)
    #expect(ProcessIdentity(pid: pid) == nil)
    #expect(try await runner.status(service) == .notRunning)
  }

  private func eventually(_ condition: () -> Bool) async throws {
    for _ in 0..<400 where !condition() { try await Task.sleep(for: .milliseconds(10)) }
    try #require(condition())
  }

  private func text(_ path: String) -> String {
    (try? Files.read(path)).map { String(decoding: $0, as: UTF8.self) } ?? ""
  }

  private func code(_ body: () async throws -> Void) async -> String {
    do { try await body() } catch { return AnyFailure(error).report.code }
    return "none"
  }

  // MARK: Daemons

  @Test func `a daemon starts once, in a session of its own, and is stopped`() async throws {
    let service = daemon("echo out; echo err >&2; exec sleep 1000")
    try await with(service) { pid in
      let status = try #require(ProcessStatus(pid: pid))
      #expect(status.session == pid)
      #expect(status.group == pid)
      #expect(try await runner.start(service) == .alreadyRunning(pid: pid))
      #expect(try await runner.status(service) == .running(pid: pid))
      try await eventually { text(directory.file("services/echo.log")) == "out\nerr\n" }
    }
    // Stopping what doesn't run is fine.
    try await runner.stop(service)
    #expect(!Files.exists(directory.file("services/echo.pid")))
  }

  @Test func `many who start it at once start one`() async throws {
    let service = daemon("exec sleep 1000")
    let runner = runner
    let starts = try await withThrowingTaskGroup(of: ServiceStart.self) { group in
      for _ in 0..<8 { group.addTask { try await runner.start(service) } }
      return try await group.reduce(into: [ServiceStart]()) { $0.append($1) }
    }
    #expect(starts.count { if case .started = $0 { true } else { false } } == 1)
    try await runner.stop(service)
  }

  @Test func `who ignores SIGTERM is killed, with all it started`() async throws {
    let service = daemon("trap '' TERM; sleep 1000 & echo $! > \(directory.file("child")); while :; do sleep 1; done")
    var child: Int32 = 0
    try await with(service) { _ in
      try await eventually { text(directory.file("child")).hasSuffix("\n") }
      child = try #require(Int32(text(directory.file("child")).dropLast()))
      #expect(ProcessIdentity(pid: child) != nil)
    }
    try await eventually { ProcessIdentity(pid: child) == nil }
  }

  @Test func `a number that was given to somebody else is left in peace`() async throws {
    let service = daemon("exec sleep 1000")
    try Files.createDirectory(directory.file("services"))
    let me = ProcessIdentity.current
    for stale in ["\(me.host)/\(me.boot)/\(me.pid)/1", "\(me.host)/other-boot/\(me.pid)/\(me.startTicks)", "junk", ""] {
      try Files.replace(directory.file("services/echo.pid"), with: Array(stale.utf8))
      #expect(try await runner.status(service) == .notRunning)
      try await runner.stop(service)
      try await with(service) { pid in #expect(pid != me.pid) }
    }
  }

  @Test func `whoever crashes before the record is written leaves nothing running`() async throws {
    let output = try File(directory.file("out"), O_WRONLY | O_CREAT)
    var process: GatedProcess? = try GatedProcess(
      .init(
        path: "/bin/sh", arguments: ["sh", "-c", "echo ran"], environment: [:], output: output, isDetached: true))
    let pid = try #require(process?.pid)
    #expect(ProcessIdentity(pid: pid) != nil)
    // What the kernel does to the gate of a process that dies.
    process = nil
    try await eventually { ProcessIdentity(pid: pid) == nil }
    #expect(text(directory.file("out")) == "")
  }

  @Test func `a secret is in the environment and nowhere else`() async throws {
    var service = daemon("echo started; exec sleep 1000")
    service.start.secrets = ["PGPASSWORD": .environment("PG")]
    service.start.environment = ["PLAIN": "a b"]
    setenv("SALVOR_TEST_OWN", "own", 1)
    try await with(service) { pid in
      try await eventually { text(directory.file("services/echo.log")) == "started\n" }
      let environment = text("/proc/\(pid)/environ").split(separator: "\0").map(String.init)
      #expect(environment.contains("PGPASSWORD=secret of PG"))
      #expect(environment.contains("PLAIN=a b"))
      #expect(environment.contains { $0.hasPrefix("PATH=") })
      #expect(!environment.contains { $0.hasPrefix("SALVOR_TEST_OWN") })
      #expect(!text("/proc/\(pid)/cmdline").contains("secret of"))
      #expect(!text(directory.file("services/echo.pid")).contains("secret of"))
    }
    service.start.secrets = ["PGPASSWORD": .file("/nowhere")]
    #expect(await code { _ = try await runner.start(service) } == "IO-104")
    #expect(try await runner.status(service) == .notRunning)
  }

  @Test func `root can run a service as somebody else`() async throws {
    try #require(geteuid() == 0, "this test needs root")
    let nobody = try #require(Account(named: "nobody"))
    var service = daemon("exec sleep 1000")
    service.start.user = "nobody"
    service.start.workingDirectory = "/tmp"
    try await with(service) { pid in
      #expect(
        text("/proc/\(pid)/status").contains("Uid:\t\(nobody.user)\t\(nobody.user)\t\(nobody.user)\t\(nobody.user)"))
      #expect(text("/proc/\(pid)/status").contains("Gid:\t\(nobody.group)\t"))
      #expect(text("/proc/\(pid)/environ").contains("USER=nobody\0"))
    }
    service.start.user = "no-such-user"
    #expect(await code { _ = try await runner.start(service) } == "SERVICE-102")
  }

  @Test func `what cannot start says why`() async throws {
    var service = daemon("true")
    service.start.arguments = []
    #expect(await code { _ = try await runner.start(service) } == "SERVICE-101")
    service.start.arguments = ["no-such-program-here"]
    #expect(await code { _ = try await runner.start(service) } == "SERVICE-101")
    service.start.arguments = ["sh\0x"]
    #expect(await code { _ = try await runner.start(service) } == "SERVICE-101")
    service = daemon("true")
    service.start.workingDirectory = "/nowhere"
    #expect(await code { _ = try await runner.start(service) } == "SERVICE-201")
    try Files.replace(directory.file("not-a-program"), with: Array("\u{7f}ELF junk".utf8), mode: 0o755)
    service = daemon("true")
    service.start.arguments = [directory.file("not-a-program")]
    #expect(await code { _ = try await runner.start(service) } == "SERVICE-201")
    #expect(!Files.exists(directory.file("services/echo.pid")))
  }

  // MARK: Commands

  @Test func `a oneshot runs to its end, and what it leaves running stays`() async throws {
    let left = directory.file("left")
    let service = ServiceUnit(
      name: "once", mode: .oneshot, start: sh("sleep 1000 & echo $! > \(left)"), stop: sh("kill $(cat \(left))"))
    #expect(try await runner.start(service) == .commandRan)
    let pid = try #require(Int32(text(left).dropLast()))
    #expect(ProcessIdentity(pid: pid) != nil)
    #expect(try await runner.status(service) == .unknown)
    try await runner.stop(service)
    try await eventually { ProcessIdentity(pid: pid) == nil }
  }

  @Test func `a command that fails or takes too long is a failure with its words`() async throws {
    let failing = ServiceUnit(name: "once", mode: .oneshot, start: sh("echo what went wrong; exit 3"))
    let words = "start: sh -c echo what went wrong; exit 3"
    await #expect(
      throws: ServiceError.commandFailed("once", command: words, outcome: "exited with 3", log: "what went wrong")
    ) {
      try await runner.start(failing)
    }
    let slow = ServiceUnit(
      name: "once", mode: .oneshot, start: sh("echo $$ > \(directory.file("slow")); sleep 1000", timeout: 300))
    #expect(await code { _ = try await runner.start(slow) } == "SERVICE-203")
    let pid = try #require(Int32(text(directory.file("slow")).dropLast()))
    try await eventually { ProcessIdentity(pid: pid) == nil }
  }

  @Test func `cancelling a command kills it`() async throws {
    let file = directory.file("pid")
    let service = ServiceUnit(name: "once", mode: .oneshot, start: sh("echo $$ > \(file); sleep 1000"))
    let runner = runner
    try await withThrowingTaskGroup(of: Void.self) { group in
      group.addTask {
        await #expect(throws: ServiceError.cancelled) { try await runner.start(service) }
      }
      try await eventually { text(file).hasSuffix("\n") }
      group.cancelAll()
    }
    let pid = try #require(Int32(text(file).dropLast()))
    #expect(ProcessIdentity(pid: pid) == nil)
  }

  // MARK: Readiness

  @Test func `each kind of check tells ready from not ready`() async throws {
    let server = try HTTPStub(status: 200, body: "all is well")
    let closed = try freePort()
    let url = "http://127.0.0.1:\(server.port)/health"
    func http(_ url: String, _ status: ClosedRange<Int>, _ body: String?) -> ReadyCheck.Probe {
      .http(url: url, status: status, bodyContains: body)
    }
    let good: [ReadyCheck.Probe] = [
      .exec(sh("exit 0")), .tcp(host: "127.0.0.1", port: server.port), .tcp(host: "localhost", port: server.port),
      http(url, 200...299, nil), http(url, 200...200, "is well"), .sql(store: "db", query: "1", expect: "1"),
      .sql(store: "db", query: "1", expect: nil),
    ]
    let bad: [ReadyCheck.Probe] = [
      .exec(sh("exit 1")), .exec(sh("sleep 10")), .tcp(host: "127.0.0.1", port: closed),
      .tcp(host: "no-such-host.invalid", port: 1), http(url, 300...399, nil), http(url, 200...299, "is bad"),
      http("http://127.0.0.1:\(closed)/", 200...299, nil), http("not a url", 200...299, nil),
      .sql(store: "db", query: "1", expect: "2"), .sql(store: "db", query: "empty", expect: nil),
    ]
    for probe in good { try await runner.evaluate(ReadyCheck("c", probe, timeoutMilliseconds: 3000), of: "echo") }
    for probe in bad {
      let check = ReadyCheck("c", probe, timeoutMilliseconds: 300)
      #expect(await code { try await runner.evaluate(check, of: "echo") } == "SERVICE-301", "\(probe)")
    }
  }

  @Test func `readiness is waited for, and a daemon that dies is noticed`() async throws {
    let file = directory.file("ready")
    let script = sh("test -e \(file) || { touch \(file); exit 1; }")
    let check = ReadyCheck("file", .exec(script), intervalMilliseconds: 10, attempts: 3)
    try await with(daemon("exec sleep 1000", ready: [check])) { _ in
      let evidence = try await runner.waitUntilReady(daemon("", ready: [check]))
      #expect(evidence.map(\.check) == ["file"])
      #expect(evidence.first?.attempt == 2)
    }
    let never = ReadyCheck("never", .exec(sh("exit 1")), intervalMilliseconds: 10, attempts: 3)
    try await with(daemon("exec sleep 1000", ready: [never])) { _ in
      #expect(await code { _ = try await runner.waitUntilReady(daemon("", ready: [never])) } == "SERVICE-301")
    }
    let dying = daemon(
      "echo no disk; exit 1", ready: [ReadyCheck("never", .exec(sh("exit 1")), intervalMilliseconds: 10)])
    _ = try await runner.start(dying)
    await #expect(throws: ServiceError.diedEarly("echo", log: "no disk")) { try await runner.waitUntilReady(dying) }
    #expect(await code { _ = try await runner.waitUntilReady(daemon("")) } == "SERVICE-302")
  }

  @Test(
    arguments: [
      ("a b  c", ["a", "b", "c"]), ("a 'b c' \"d \\\" e\"", ["a", "b c", "d \" e"]), ("a\\ b", ["a b"]), ("''", [""]),
      ("x'y'\"z\"", ["xyz"]), ("$HOME `id` *", ["$HOME", "`id`", "*"]), ("\"a\\n\"", ["a\\n"]), ("", []),
    ] as [(String, [String])])
  func `words are split without a shell`(_ line: String, _ words: [String]) {
    #expect(CommandWords.split(line) == words)
    #expect(CommandWords.split(line + " 'open") == nil)
    #expect(CommandWords.split(line + "\\") == nil)
  }
}
