import Core
import Logging
import Synchronization

#if canImport(Glibc)
  import Glibc
#elseif canImport(Darwin)
  import Darwin
#endif

/// How log lines look.
package enum LogFormat: String, Sendable, CaseIterable {
  /// For people: `2026-11-21T08:09:20.512Z info salvor.engine run begun run=recovery-3f9a`.
  case text
  /// For machines: one object per line.
  case json
}

/// Sends the log to standard error; called once, by the executable, before anything is logged.
package enum LogSetup {
  package static func bootstrap(_ format: LogFormat, level: Logger.Level, time: any Timekeeper = SystemTime()) {
    let sink = LogSink.standardError
    LoggingSystem.bootstrap { label in LogLines(label: label, format: format, level: level, time: time, sink: sink) }
  }
}

/// Takes whole lines, one at a time.
package struct LogSink: Sendable {
  package var take: @Sendable (String) -> Void

  package init(_ take: @escaping @Sendable (String) -> Void) { self.take = take }

  /// One write(2) per line, so that lines of several threads or processes don't mix.
  package static let standardError = LogSink { line in
    var bytes = Array(line.utf8)
    bytes.withUnsafeMutableBytes { raw in
      var done = 0
      while done < raw.count {
        let count = write(2, raw.baseAddress.map { $0 + done }, raw.count - done)
        if count < 0, errno == EINTR { continue }
        // Nobody reads standard error any more; that must not stop a recovery.
        guard count > 0 else { return }
        done += count
      }
    }
  }
}

/// swift-log's handler: one line per message, control characters made harmless.
package struct LogLines: LogHandler {
  package var logLevel: Logger.Level
  package var metadata: Logger.Metadata = [:]
  package var metadataProvider: Logger.MetadataProvider?
  private let label: String
  private let format: LogFormat
  private let time: any Timekeeper
  private let sink: LogSink

  package init(label: String, format: LogFormat, level: Logger.Level, time: any Timekeeper, sink: LogSink) {
    (self.label, self.format, logLevel) = (label, format, level)
    (self.time, self.sink) = (time, sink)
  }

  package subscript(metadataKey key: String) -> Logger.Metadata.Value? {
    get { metadata[key] }
    set { metadata[key] = newValue }
  }

  package func log(event: LogEvent) {
    var all = metadata
    all.merge(metadataProvider?.get() ?? [:]) { _, new in new }
    all.merge(event.metadata ?? [:]) { _, new in new }
    if let error = event.error { all["error"] = "\(AnyFailure(error).report)" }
    sink.take(line(event.level, event.message.description, all))
  }

  private func line(_ level: Logger.Level, _ message: String, _ metadata: Logger.Metadata) -> String {
    let at = time.now().format(fractionDigits: 3)
    let fields = metadata.sorted { $0.key < $1.key }
    switch format {
    case .text:
      let tail = fields.map { " \($0.key)=\(quoted($0.value.description))" }.joined()
      return "\(at) \(level.rawValue) \(label) \(plain(message))\(tail)\n"
    case .json:
      var object: [String: JSONValue] = [
        "at": .string(at), "level": .string(level.rawValue), "logger": .string(label), "message": .string(message),
      ]
      for (key, value) in fields where object[key] == nil { object[key] = .string(value.description) }
      let text = (try? CanonicalJSON.text(JSONValue.object(object))) ?? "{}"
      return text + "\n"
    }
  }

  private func plain(_ text: String) -> String {
    String(text.unicodeScalars.map { $0.value < 32 || $0.value == 127 ? " " : Character($0) })
  }

  private func quoted(_ text: String) -> String {
    let isWord = !text.isEmpty && text.unicodeScalars.allSatisfy { $0.value > 32 && $0 != "\"" && $0 != "=" }
    if isWord { return plain(text) }
    let escaped = text.replacing("\\", with: "\\\\").replacing("\"", with: "\\\"").replacing("\n", with: "\\n")
    return "\"\(plain(escaped))\""
  }
}
