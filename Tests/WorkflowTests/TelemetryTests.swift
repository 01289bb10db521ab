import Core
import Logging
import Telemetry
import Testing

@Suite("Log lines")
struct TelemetryTests {
  private func logged(_ format: LogFormat, _ body: (Logger) -> Void) -> [String] {
    let lines = Lines()
    let time = SimulatedTime(epoch: Timestamp(seconds: 0))
    body(
      Logger(label: "salvor.test") { label in
        LogLines(label: label, format: format, level: .info, time: time, sink: LogSink { lines.add($0) })
      })
    return lines.all
  }

  @Test func `text is one line, whatever is in the message`() {
    let lines = logged(.text) { logger in
      logger.info("begun\u{1b}[2J\nforged line", metadata: ["run": "r-1", "why": "it \"was\" time\n"])
      logger.debug("not shown")
    }
    #expect(
      lines == [
        "1970-01-01T00:00:00.000Z info salvor.test begun [2J forged line run=r-1 why=\"it \\\"was\\\" time\\n\"\n"
      ])
  }

  @Test func `JSON is one object per line, and metadata can't replace its own fields`() throws {
    let lines = logged(.json) { $0.error("broke\n", metadata: ["run": "r-1", "level": "fake"]) }
    let value = try CanonicalJSON.decode(JSONValue.self, from: try #require(lines.first).utf8)
    #expect(lines.count == 1)
    #expect(lines.first?.dropLast().contains("\n") == false)
    #expect(
      value == [
        "at": "1970-01-01T00:00:00.000Z", "level": "error", "logger": "salvor.test", "message": "broke\n", "run": "r-1",
      ])
  }

  @Test func `a fraction needs a total`() {
    #expect(Progress("copy", doneBytes: 5, totalBytes: 20).fraction == 0.25)
    #expect(Progress("copy", doneBytes: 30, totalBytes: 20).fraction == 1)
    #expect(Progress("copy", doneBytes: 5).fraction == nil)
    #expect(Progress("copy", doneItems: 1, totalItems: 2).fraction == 0.5)
    #expect(Progress("copy", doneBytes: 5, totalBytes: 0).fraction == nil)
  }
}
