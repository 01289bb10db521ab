import Core
import DriverContract
import DriverKit
import IO
import TestSupport
import Testing

@testable import DriverRedis

/// Parts that need no server.
@Suite("Redis: parts") struct RedisPartTests {
  private func scan(_ text: String, range: Range<Int64>? = nil) throws -> (String, CommandScanner.Summary) {
    let place = try TemporaryDirectory("scan")
    try Files.replace(place.file("stream"), with: Array(text.utf8))
    var scanner = CommandScanner(try File(place.file("stream"), 0), range ?? 0..<Int64(text.utf8.count))
    var output: [UInt8] = []
    let summary = try scanner.copy { (bytes) throws(SystemFailure) in output += Array(bytes) }
    return (String(decoding: output, as: UTF8.self), summary)
  }

  @Test("the scanner keeps data and drops the link's own commands")
  func scannerKeeps() throws {
    let ping = "*1\r\n$4\r\nPING\r\n"
    let select = "*2\r\n$6\r\nSELECT\r\n$2\r\n11\r\n"
    // A value that looks like a command is a value.
    let set = "*3\r\n$3\r\nset\r\n$1\r\nk\r\n$14\r\n" + ping + "\r\n"
    let ack = "*3\r\n$8\r\nREPLCONF\r\n$6\r\nGETACK\r\n$1\r\n*\r\n"
    let (output, summary) = try scan(ping + select + ping + set + ack)
    #expect(output == select + set)
    #expect(summary.commands == 2 && summary.dropped == 3 && summary.highestDatabase == 11)
    #expect(summary.bytes == Int64(output.utf8.count))
  }

  @Test(
    "a stream that isn't whole commands is a gap, never a trap",
    arguments: [
      "x", "*", "*1", "*1\r", "*1\r\n", "*0\r\n", "*-1\r\n$1\r\na\r\n", "*1\r\n$4\r\nPIN", "*1\r\n$4\r\nPING",
      "*1\r\n$4\r\nPINGxx",
      "*1\r\n$9223372036854775807\r\nx\r\n", "*9223372036854775807\r\n$1\r\nx\r\n", "*99999999999999999999999\r\n",
      "*1\r\n$-1\r\n", "*1\n$4\nPING\n", "*2\r\n$4\r\nPING\r\n", "*1\r\n$5\r\nMULTI\r\n", "*1\r\n$\r\n\r\n",
      "\r\n*1\r\n$4\r\nPING\r\n",
    ])
  func scannerRefuses(text: String) throws {
    #expect {
      _ = try scan(text)
    } throws: { error in
      if case .logGap? = error as? DriverError { true } else { false }
    }
  }

  @Test("versions that read each other's files") func versions() throws {
    func reads(_ a: String, _ b: String) throws -> Bool {
      try #require(EngineVersion(a)).reads(try #require(EngineVersion(b)))
    }
    #expect(try reads("7.0.15", "7.0.9") && reads("7.2.1", "7.0.15") && reads("7.0.15", "6.2.14"))
    #expect(try !reads("7.0.15", "7.2.0") && !reads("7.0.15", "6.0.0"))
    #expect(try reads("valkey 8.0.1", "7.2.4") && !reads("valkey 8.0.1", "7.4.0") && !reads("7.4.0", "valkey 8.0.1"))
    #expect(EngineVersion("7.0") == nil && EngineVersion("x 7.0.0") == nil && EngineVersion("") == nil)
  }

  @Test("words") func words() {
    #expect(CommandLine.words("a  'b c' \"d\\x41\\n\" e'f") == ["a", "b c", "dA\n", "e'f"])
    for broken in ["'a", "\"a", "\"a\"b", "a\"b\"", "\"\\x4\""] {
      #expect(CommandLine.words(broken) == nil, "\(broken)")
    }
  }

  @Test("facts come back as they were, and a name from outside is never a path") func facts() throws {
    var facts = Facts()
    facts.base = .init(bytes: 1, digest: Digest.of("a"), offset: 2)
    facts.increment = .init(bytes: 3, digest: Digest.of("b"), offset: 4)
    facts.commands = 5
    facts.databases = 17
    facts.counts = [0: KeyCount(keys: 6, expiring: 7), 12: KeyCount(keys: 1)]
    facts.settings.values = ["dbfilename": "../../etc/passwd", "appenddirname": "x/y", "appendonly": "yes"]
    let read = try Facts(facts.encoded)
    #expect(read == facts)
    #expect(read.settings.databaseFile == "dump.rdb" && read.settings.appendDirectory == "appendonlydir")
    var settings = ServerSettings()
    settings.override(withConfiguration: "# appendonly no\nAPPENDONLY yes\ndbfilename \"my dump.rdb\"\nport 1\n")
    #expect(settings.isAppendOnly && settings.databaseFile == "my dump.rdb" && settings.values["port"] == nil)
  }

  private struct Crash: Error {}

  @Test("a swap that stops at any call is finished, or undone, by the next one")
  func swapSurvivesCrashes() throws {
    // Live before, restored: all four combinations at once.
    let names = ["both", "old", "new", "none"]
    func make() throws -> (TemporaryDirectory, EntrySwap) {
      let place = try TemporaryDirectory("swap")
      let swap = EntrySwap(directory: place.path, workspace: place.file(".salvor-w"), names: names)
      try Files.createDirectory("\(swap.next)/both")
      try Files.replace("\(swap.next)/both/file", with: Array("new".utf8))
      try Files.replace("\(swap.next)/new", with: Array("new".utf8))
      try Files.replace(place.file("both"), with: Array("old".utf8))
      try Files.replace(place.file("old"), with: Array("old".utf8))
      try Files.replace(place.file("other"), with: Array("stays".utf8))
      return (place, swap)
    }
    func content(_ place: TemporaryDirectory) throws -> [String: String] {
      var result: [String: String] = [:]
      for name in try Files.names(in: place.path).map(\.lossyText) where !name.hasPrefix(".") {
        let path = Files.isDirectory(place.file(name)) ? place.file("\(name)/file") : place.file(name)
        result[name] = String(decoding: try Files.read(path), as: UTF8.self)
      }
      return result
    }
    let before = ["both": "old", "old": "old", "other": "stays"]
    let after = ["both": "new", "new": "new", "other": "stays"]
    var crashes = 0
    for stop in 0..<24 {
      for undoesAfterwards in [false, true] {
        let (place, swap) = try make()
        let calls = Counter(limit: stop)
        var crashing = swap
        crashing.beforeCall = { call throws(DriverError) in
          if calls.next() { throw .engineFailed("crash at \(call)", log: "") }
        }
        do {
          try crashing.swapIn()
          try crashing.swapOut()
          try crashing.swapIn()
        } catch { crashes += 1 }
        if undoesAfterwards {
          try swap.swapOut()
          #expect(try content(place) == before, "crash at call \(stop), undone")
        } else {
          try swap.swapIn()
          #expect(try content(place) == after, "crash at call \(stop), finished")
          try swap.swapOut()
          #expect(try content(place) == before, "crash at call \(stop), finished, undone")
        }
      }
    }
    #expect(crashes > 30)
  }

  @Test("what was kept and is gone is told, and nothing is moved")
  func lostStateIsTold() throws {
    let place = try TemporaryDirectory("swap")
    let swap = EntrySwap(directory: place.path, workspace: place.file(".salvor-w"), names: ["one", "two"])
    try Files.createDirectory(swap.next)
    for name in ["one", "two"] {
      try Files.replace("\(swap.next)/\(name)", with: Array("new".utf8))
      try Files.replace(place.file(name), with: Array("old".utf8))
    }
    try swap.swapIn()
    try Files.rename(place.file(".salvor-w/kept/two"), to: place.file("elsewhere"))
    let error = #expect(throws: DriverError.self) { try swap.swapOut() }
    #expect(error?.report.code == "DRIVER-608" && error?.report.summary.contains("two") == true)
    for name in ["one", "two"] { #expect(try Files.read(place.file(name)) == Array("new".utf8)) }
    try Files.rename(place.file("elsewhere"), to: place.file(".salvor-w/kept/two"))
    for _ in 1...2 { try swap.swapOut(isRecorded: true) }
    for name in ["one", "two"] { #expect(try Files.read(place.file(name)) == Array("old".utf8)) }
    try Files.removeTree(swap.workspace)
    try swap.swapOut()
    #expect(throws: DriverError.self) { try swap.swapOut(isRecorded: true) }
  }
}

/// Says `true` once, at the call it was made for.
private final class Counter: @unchecked Sendable {
  private var remaining: Int
  init(limit: Int) { remaining = limit }
  func next() -> Bool {
    defer { remaining -= 1 }
    return remaining == 0
  }
}
