import Core
import DriverContract
import DriverKit
import Foundation
import IO
import Synchronization
import TestSupport
import Testing

@testable import DriverExec

/// The examples of the documentation, and programs that break the protocol in each way there is.
@Suite("Programs as drivers") struct DriverExecTests {
  private static let root: String = {
    var path = #filePath
    for _ in 0..<3 { path = Files.parent(of: path) }
    return path
  }()
  private static let journal = root + "/examples/drivers/journal.sh"
  private static let logServer = root + "/examples/drivers/logserver_driver.py"
  private static let salvor = (try? CommandRun.product("salvor")) ?? "salvor"

  private struct Tried {
    var status: Int32
    var broken: [String]
    var kept: [String]
  }

  /// `salvor driver test`, as a user runs it.
  private func check(_ words: [String]) async throws -> Tried {
    try await BlockingPool.shared.run {
      let process = try PipedProcess([Self.salvor, "driver", "test", "-o", "json", "--"] + words)
      process.end()
      let status = process.wait()
      let result = try CanonicalJSON.decode(JSONValue.self, from: process.output)
      let promises = result["promises"]?.array ?? []
      func names(_ isKept: Bool) -> [String] {
        promises.filter { $0["isKept"]?.bool == isKept }.compactMap {
          ($0["promise"]?.string ?? "") + ($0["why"]?.string.map { ": " + $0 } ?? "")
        }
      }
      return Tried(status: status, broken: names(false), kept: names(true))
    }
  }

  // MARK: Examples

  @Test(.timeLimit(.minutes(5))) func `the example in POSIX shell keeps every promise`() async throws {
    let tried = try await check([Self.journal])
    #expect(tried.broken.isEmpty)
    #expect(tried.status == 0)
    #expect(tried.kept.count == 22)
    #expect(tried.kept.contains("held means held"))
  }

  @Test(.timeLimit(.minutes(10))) func `the example in Python keeps every promise`() async throws {
    let tried = try await check(["python3", Self.logServer])
    #expect(tried.broken.isEmpty)
    #expect(tried.status == 0)
    #expect(tried.kept.count == 25)
    #expect(tried.kept.contains("queries only read"))
  }

  /// Without `state` in the catalog the program puts things in place: the example again, with its own two renames.
  @Test(.timeLimit(.minutes(5))) func `a program that swaps by itself keeps every promise`() async throws {
    let place = try TemporaryDirectory("own-swap")
    var text = String(decoding: try Files.read(Self.journal), as: UTF8.self)
    for (old, new) in [
      ("state=$(text state)", "state=$(text journal)"),
      (#"{\"state\":\"$state\","#, #"{\"paths\":[\"$state\"],\"settings\":{\"journal\":\"$state\"},"#),
      (
        "    status)",
        #"""
            restore.swapIn)
              kept=$(text directory)/kept
              if [ -e "$(text target)" ]; then
                if [ -e "$state" ] && [ ! -e "$kept" ]; then mv "$state" "$kept"; else mkdir -p "$kept"; fi
                [ -e "$state" ] || mv "$(text target)" "$state"
              fi
              answer '{}' ;;
            restore.swapOut)
              kept=$(text directory)/kept
              if [ -e "$kept" ]; then
                [ -e "$(text target)" ] || mv "$state" "$(text target)"
                if [ -e "$kept/entries" ]; then mv "$kept" "$state"; else rmdir "$kept"; fi
                answer '{}'
              elif [ -e "$(text target)" ]; then
                answer '{}'
              else
                refuse kept-missing 'it is not there'
              fi ;;
            status)
        """#
      ),
    ] {
      try #require(text.contains(old), "\(old)")
      text = text.replacingOccurrences(of: old, with: new)
    }
    try Files.replace(place.file("driver"), with: Array(text.utf8), mode: 0o755)
    let tried = try await check(["sh", place.file("driver")])
    #expect(tried.broken.isEmpty)
    #expect(tried.kept.count == 22)
  }

  /// What the check is for: each of these is the example with one promise broken.
  @Test(
    .timeLimit(.minutes(5)),
    arguments: [
      ("capture.hold) take_hold ;;", "capture.hold) answer '{}' ;;", "held means held"),
      ("print ms / 1000", "print 3600", "a hold lapses by itself"),
      ("size=$(bytes \"$state/entries\")\n", "size=$(( $(bytes \"$state/entries\") - 120 ))\n", "a capture is whole"),
      (
        "mv \"$source/entries\" \"$target/entries\"", "head -n 3 \"$source/entries\" >\"$target/entries\"",
        "swap in and out"
      ),
      ("refuse unsupported 'only version", "answer '{\"protocol\":999}' # 'only version", "another version is refused"),
      ("*) refuse unsupported 'no such call'", "*) exit 3", "unknown calls are refused"),
      ("done\n", "done\nexit 1\n", "the program ends when its input does"),
    ])
  func `a broken program is found out`(_ right: String, _ wrong: String, _ promise: String) async throws {
    let place = try TemporaryDirectory("mutant")
    let text = String(decoding: try Files.read(Self.journal), as: UTF8.self)
    try #require(text.contains(right))
    var broken = text.replacingOccurrences(of: right, with: wrong)
    if promise.hasPrefix("the program ends") { broken = text + "exit 1\n" }
    try Files.replace(place.file("driver"), with: Array(broken.utf8), mode: 0o755)
    let tried = try await check(["sh", place.file("driver")])
    #expect(tried.status == 4)
    #expect(tried.broken.contains { $0.hasPrefix(promise) }, "\(tried.broken)")
  }

  // MARK: The whole way

  @Test(.timeLimit(.minutes(10))) func `a store with a server comes back through the command line`() async throws {
    let place = try TemporaryDirectory("exec-system")
    try Files.createDirectory(place.file("server"))
    let settings = ["directory": place.file("server")]
    let command = ["python3", Self.logServer]
    func ask(_ call: String, _ fields: [String: JSONValue] = [:]) async throws -> JSONValue {
      let program = try await ProgramConversation.begin(command, in: .live)
      _ = try await program.hello(settings: settings, state: place.file("server/data"))
      let answer = try await program.call(call, fields)
      _ = await program.end()
      return answer
    }
    _ = try await ask("start")
    do {
      for number in Int64(1)...3 { _ = try await ask("test.write", ["number": .integer(number), "payload": "early"]) }
      try await CommandRun([
        Self.salvor, "init", "--file", place.file("first.yaml"), "--repository", place.file("vault"), "--password-file",
        place.file("password"),
      ]).succeeded()
      try Files.replace(
        place.file("salvor.yaml"),
        with: Array(
          """
          apiVersion: salvor.dev/v1
          kind: Repository
          metadata: {name: main}
          spec: {location: "local:\(place.file("vault"))", password: "file:\(place.file("password"))"}
          ---
          apiVersion: salvor.dev/v1
          kind: Service
          metadata: {name: notes}
          spec:
            stores:
              - name: log
                exec:
                  command: "python3 \(Self.logServer)"
                  settings: ["directory=\(place.file("server"))"]
                  state: "\(place.file("server/data"))"
          """.utf8))
      let options = ["--catalog", place.file("salvor.yaml"), "--state", place.file("state")]
      try await CommandRun([Self.salvor, "backup"] + options).succeeded()
      _ = try await ask("test.write", ["number": 4, "payload": "late"])
      try await CommandRun([Self.salvor, "restore", "--yes"] + options).succeeded()
      #expect(try await ask("test.records")["numbers"] == [1, 2, 3])
      let runs = try await CommandRun([Self.salvor, "runs", "-o", "json"] + options).succeeded().output
      let run = try #require(runs.firstMatch(of: /recovery-[0-9a-f]+/)).output
      try await CommandRun([Self.salvor, "run", "rollback", String(run), "--yes"] + options).succeeded()
      #expect(try await ask("test.records")["numbers"] == [1, 2, 3, 4])
    } catch {
      _ = try? await ask("stop")
      throw error
    }
    _ = try await ask("stop")
  }

  // MARK: When Salvor dies

  /// Two stores of a group are held side by side; while the second still takes its time, Salvor is killed.
  @Test(.timeLimit(.minutes(10))) func `a hold lapses when Salvor is killed`() async throws {
    let place = try TemporaryDirectory("killed")
    try Files.createDirectory(place.file("journal"))
    try Files.createDirectory(place.file("slow"))
    for name in ["journal", "slow"] {
      try Files.replace(place.file(name + "/entries"), with: Array("1 one\n".utf8))
      try Files.replace(place.file(name + "/lock"), with: [])
    }
    let text = String(decoding: try Files.read(Self.journal), as: UTF8.self)
    let slow = text.replacingOccurrences(of: "capture.hold) take_hold", with: "capture.hold) sleep 20; take_hold")
    try #require(slow != text)
    try Files.replace(place.file("slow.sh"), with: Array(slow.utf8), mode: 0o755)
    let setup = try PipedProcess([
      Self.salvor, "init", "--file", place.file("first.yaml"), "--repository", place.file("vault"), "--password-file",
      place.file("password"),
    ])
    setup.end()
    try #require(setup.wait() == 0, "\(setup.errors)")
    try Files.replace(
      place.file("salvor.yaml"),
      with: Array(
        """
        apiVersion: salvor.dev/v1
        kind: Repository
        metadata: {name: main}
        spec: {location: "local:\(place.file("vault"))", password: "file:\(place.file("password"))"}
        ---
        apiVersion: salvor.dev/v1
        kind: ConsistencyGroup
        metadata: {name: both}
        spec: {services: [notes], holdBudget: 60s}
        ---
        apiVersion: salvor.dev/v1
        kind: Service
        metadata: {name: notes}
        spec:
          stores:
            - {name: quick, exec: {command: "\(Self.journal)", state: "\(place.file("journal"))"}}
            - {name: slow, exec: {command: "sh \(place.file("slow.sh"))", state: "\(place.file("slow"))"}}
        """.utf8))
    let backup = try PipedProcess([
      Self.salvor, "backup", "both", "--catalog", place.file("salvor.yaml"), "--state", place.file("state"),
    ])
    /// Whether a writer gets the shared lock within a moment.
    func canWrite(within seconds: String) async throws -> Bool {
      try await BlockingPool.shared.run {
        let writer = try PipedProcess(["flock", "-s", "-w", seconds, place.file("journal/lock"), "true"])
        writer.end()
        return writer.wait() == 0
      }
    }
    var isHeld = false
    for _ in 0..<300 where !isHeld {
      try await SystemTime().sleep(for: .milliseconds(50))
      try #require(backup.isRunning, "\(backup.errors)")
      isHeld = try await !canWrite(within: "0")
    }
    #expect(isHeld, "the first store was never held")
    backup.kill()
    #expect(try await canWrite(within: "5"), "the hold outlived Salvor")
  }

  // MARK: Programs that break the protocol

  /// A driver for a shell script that is given each request as `$line`.
  private func driver(_ body: String, timeout: String = "2s") throws -> any DataStoreDriver {
    let place = try TemporaryDirectory("program")
    kept.places.withLock { $0.append(place) }
    let hello = #"printf '{"id":1,"result":{"protocol":1,"program":"p"}}\n'"#
    try Files.replace(
      place.file("program"),
      with: Array("#!/bin/sh\nread -r line\n\(hello)\nwhile read -r line; do\n\(body)\ndone\n".utf8), mode: 0o755)
    return try ExecDriverFactory.make(
      StoreConfiguration(
        name: "odd",
        options: [
          "command": .string("sh " + place.file("program")), "state": .string(place.file("state")),
          "timeout": .string(timeout),
        ]), in: .live)
  }

  /// Directories of programs, until their test has ended.
  private final class Kept: Sendable { let places = Mutex<[TemporaryDirectory]>([]) }

  private let kept = Kept()

  private func failure(_ body: () async throws -> Void) async throws -> DriverError {
    do { try await body() } catch let error as DriverError { return error }
    throw ContractBroken("nothing was thrown")
  }

  @Test(
    .timeLimit(.minutes(10)),
    arguments: [
      ("echo nonsense", "no reply"), (#"echo '{"id":7,"result":{}}'"#, "answers request 7"),
      (#"echo '{"result":{}}'"#, "without a number"), ("echo bad luck >&2; exit 3", "ended with code 3"),
      ("kill -9 $$", "ended by signal 9"), (#"echo '{"id":2,"result":[1]}'"#, "something else than the protocol says"),
      (#"echo '{"id":2,"result":{"hold":{}}}'"#, "none of"),
      (#"echo '{"id":2,"result":{"hold":{"held":"a","outside":"b"}}}'"#, "or several"),
      ("head -c 20000000 /dev/zero | tr '\\0' x", "a line of more than"),
    ])
  func `answers that are none are told as such`(_ body: String, _ words: String) async throws {
    let error = try await failure { _ = try await driver(body).traits() }
    #expect(error.report.code == "DRIVER-501")
    #expect(error.report.summary.contains(words), "\(error.report.summary)")
  }

  @Test(.timeLimit(.minutes(10))) func `what a program says on standard error is in the message`() async throws {
    let error = try await failure { _ = try await driver("echo bad luck >&2; exit 3").traits() }
    #expect(error.report.summary.contains("bad luck"))
  }

  @Test(.timeLimit(.minutes(10))) func `a silent program is ended when its time is over`() async throws {
    let began = SystemTime().monotonicNanoseconds()
    let error = try await failure { try await driver("sleep 600").start() }
    #expect(error.report.summary.contains("did not answer start within 2.00 s"), "\(error.report.summary)")
    #expect(SystemTime().monotonicNanoseconds() - began < 300_000_000_000)
  }

  @Test(.timeLimit(.minutes(10))) func `a cancelled call ends its program`() async throws {
    let driver = try driver("sleep 600", timeout: "1h")
    let began = SystemTime().monotonicNanoseconds()
    await withTaskGroup(of: Void.self) { group in
      group.addTask { try? await driver.start() }
      try? await SystemTime().sleep(for: .milliseconds(300))
      group.cancelAll()
    }
    #expect(SystemTime().monotonicNanoseconds() - began < 300_000_000_000)
  }

  @Test(.timeLimit(.minutes(10))) func `errors are told with code, state and next step`() async throws {
    for (code, report) in [
      ("unreachable", "DRIVER-201"), ("authentication", "DRIVER-202"), ("permission", "DRIVER-203"),
      ("unsupported", "DRIVER-204"), ("hold-impossible", "DRIVER-302"), ("corrupt", "DRIVER-401"),
      ("log-gap", "DRIVER-402"), ("server-running", "DRIVER-502"), ("query-failed", "DRIVER-503"),
      ("something-new", "DRIVER-501"),
    ] {
      let body = #"echo '{"id":2,"error":{"code":"\#(code)","message":"m1","state":"s1","next":"n1","more":1}}'"#
      let error = try await failure { _ = try await driver(body).traits() }
      #expect(error.report.code == report)
      for word in ["m1", "s1", "n1"] { #expect("\(error.report)".contains(word), "\(error.report)") }
    }
  }

  @Test(.timeLimit(.minutes(10))) func `progress and unknown fields are fine before an answer`() async throws {
    let traits = try await driver(
      #"""
      echo '{"id":2,"progress":{"doneBytes":5,"of":9}}'
      echo '{"id":2,"new":true,"result":{"hold":{"outside":"since it is a test","x":1},"y":2}}'
      """#
    ).traits()
    #expect(traits.hold == .outside(why: "since it is a test"))
  }

  @Test func `options that can't be right are refused`() throws {
    func make(_ options: [String: JSONValue]) throws {
      _ = try ExecDriverFactory.make(StoreConfiguration(name: "a", options: options), in: .live)
    }
    try make(["command": "a 'b c'", "state": "/srv/a", "settings": ["x=1", "y="], "secrets": ["p=file:/run/p"]])
    try make(["command": "a", "workspace": "/srv"])
    let bad: [[String: JSONValue]] = [
      ["state": "/srv/a"], ["command": "", "state": "/srv/a"], ["command": "a"], ["command": "a", "state": "srv"],
      ["command": "a", "state": "/"], ["command": "a", "state": "/srv/a", "workspace": "/srv"],
      ["command": "a", "state": "/srv/a", "settings": ["x"]], ["command": "a", "state": "/srv/a", "settings": ["=x"]],
      ["command": "a", "state": "/srv/a", "settings": ["x=1", "x=2"]],
      ["command": "a", "state": "/srv/a", "secrets": ["p=plain"]],
      ["command": "a", "state": "/srv/a", "timeout": "soon"],
    ]
    for options in bad { #expect(throws: DriverError.self, "\(options)") { try make(options) } }
  }

  @Test(.timeLimit(.minutes(10))) func `secrets go over standard input and nowhere else`() async throws {
    let place = try TemporaryDirectory("secrets")
    try Files.replace(place.file("secret"), with: Array("hush-hush\n".utf8))
    try Files.replace(
      place.file("program"),
      with: Array(
        """
        #!/bin/sh
        read -r line
        printf '%s' "$line" >"\(place.file("hello"))"
        cat /proc/$$/cmdline >"\(place.file("words"))"
        env >"\(place.file("variables"))"
        echo '{"id":1,"result":{"protocol":2,"program":"p"}}'
        """.utf8), mode: 0o755)
    let driver = try ExecDriverFactory.make(
      StoreConfiguration(
        name: "a",
        options: [
          "command": .string("sh " + place.file("program")), "state": .string(place.file("state")),
          "secrets": [.string("password=file:" + place.file("secret"))], "settings": ["a=b=c"],
        ]), in: .live)
    let error = try await failure { _ = try await driver.traits() }
    #expect(error.report.code == "DRIVER-204", "version 2 is refused: \(error)")
    let hello = try CanonicalJSON.decode(JSONValue.self, from: try Files.read(place.file("hello")))
    #expect(hello["secrets"]?["password"]?.string == "hush-hush")
    #expect(hello["settings"]?["a"]?.string == "b=c")
    #expect(hello["protocols"] == [1])
    for name in ["words", "variables"] {
      #expect(!String(decoding: try Files.read(place.file(name)), as: UTF8.self).contains("hush"))
    }
  }
}
