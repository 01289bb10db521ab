import Core
import DriverKit

/// What goes over the wire: one JSON object per line. `docs/formats/driver-protocol.md` is the specification.
enum Wire {
  static let version = 1
  /// A line may be so long, its end not counted.
  static let lineLimit = 16 << 20

  struct Reply: Decodable {
    var id: Int64?
    var result: JSONValue?
    var error: Problem?
    var progress: Progress?
  }

  struct Progress: Decodable { var doneBytes: Int64? }

  /// Why a program could not do what was asked.
  struct Problem: Decodable {
    var code: String
    var message: String
    /// What holds now.
    var state: String?
    /// What to do about it.
    var next: String?
  }

  struct Hello: Decodable {
    var `protocol`: Int64
    var program: String
    var version: String?
  }

  struct Traits: Decodable {
    struct Hold: Decodable {
      var held: String?
      var moment: String?
      var outside: String?
    }
    var version: String?
    var hold: Hold
    var sizeBytes: Int64?
    var notes: [String]?
  }

  struct Position: Codable {
    var kind: String
    var value: String
    var details: [String: String]?

    init(_ position: LogPosition) { (kind, value, details) = (position.kind, position.value, position.details) }

    var position: LogPosition { LogPosition(kind: kind, value: value, details: details ?? [:]) }
  }

  struct Digest: Codable {
    struct Part: Codable {
      var digest: String
      var count: Int64
    }
    var scheme: String
    var parts: [String: Part]

    init(_ digest: ContentDigest) {
      scheme = digest.scheme
      parts = digest.parts.mapValues { Part(digest: $0.digest, count: $0.count) }
    }

    var digest: ContentDigest {
      ContentDigest(scheme: scheme, parts: parts.mapValues { .init(digest: $0.digest, count: $0.count) })
    }
  }

  struct Marked: Decodable { var position: Position }
  struct Released: Decodable { var held: Bool }

  struct Finished: Decodable {
    var version: String?
    var position: Position
    var contentDigest: Digest?
    var facts: [String: String]?
    var notes: [String]?
  }

  /// A capture as a restore gets to see it again.
  struct Capture: Encodable {
    var version: String
    var position: Position
    var contentDigest: Digest?
    var sizeBytes: Int64
    var facts: [String: String]

    init(_ capture: CaptureResult) {
      version = capture.version
      position = Position(capture.position)
      contentDigest = capture.contentDigest.map { Digest($0) }
      sizeBytes = capture.sizeBytes
      facts = capture.facts
    }
  }

  struct Restored: Decodable {
    var position: Position
    var proofs: [String]
  }

  struct Digested: Decodable { var contentDigest: Digest? }
  struct Findings: Decodable { var findings: [Problem] }
  struct Status: Decodable { var running: Bool }

  struct Rows: Decodable {
    var columns: [String]
    var rows: [[String?]]
    var truncated: Bool?
  }

  /// Any value as JSON's data model.
  static func json(_ value: some Encodable) -> JSONValue {
    guard let bytes = try? CanonicalJSON.encode(value),
      let json = try? CanonicalJSON.decode(JSONValue.self, from: bytes)
    else { return .null }
    return json
  }
}

extension DriverError {
  /// - Parameter limit: Of the hold, for `hold-timeout`.
  init(_ problem: Wire.Problem, limit: Duration = .zero) {
    var text = String(problem.message.prefix(4096))
    if let state = problem.state { text += "; \(state.prefix(1024))" }
    if let next = problem.next { text += " (next: \(next.prefix(1024)))" }
    self =
      switch problem.code {
      case "unreachable": .unreachable(text)
      case "authentication": .authenticationFailed(text)
      case "permission": .permissionDenied(text, needs: problem.next ?? "what the program's own page says")
      case "unsupported": .unsupported(text)
      case "hold-timeout": .holdTimeout(limit)
      case "hold-impossible": .holdImpossible(text)
      case "corrupt": .corrupt(text)
      case "log-gap": .logGap(text)
      case "server-running": .serverRunning(text)
      case "query-failed": .queryFailed(text)
      case "kept-missing":
        .system(
          .init(
            Report("DRIVER-608", "the state that was to be kept can't be put back: \(text)", retry: .never)
              .state("nothing was changed")
              .remedy(
                "look at the store; put the state back by hand if you have it elsewhere, or restore an earlier point")))
      case "cancelled": .cancelled
      // An unknown code is the engine's own.
      default: .engineFailed(text, log: "")
      }
  }
}
