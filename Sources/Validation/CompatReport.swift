import Core

/// Whether a release can work with what a backup holds, and how that was found out.
package struct CompatReport: Sendable, Equatable, Codable {
  package struct Case: Sendable, Equatable, Codable {
    package enum Outcome: String, Sendable, Codable {
      case passed, failed
      /// Nothing to do, or nothing that could be asked; the message says which.
      case skipped
    }

    /// Such as `migration`, `check`, `invariant`, `down`, `schema`.
    package var kind: String
    package var name: String
    package var outcome: Outcome
    package var nanoseconds: Int64
    /// What the server said, or what was found.
    package var message: String?
    /// Relative to the release's directory.
    package var file: String?
    package var line: Int?

    package init(
      _ kind: String, _ name: String, _ outcome: Outcome, nanoseconds: Int64 = 0, message: String? = nil,
      file: String? = nil, line: Int? = nil
    ) {
      (self.kind, self.name, self.outcome, self.nanoseconds) = (kind, name, outcome, nanoseconds)
      (self.message, self.file, self.line) = (message, file, line)
    }

    /// `migrations/0003_names.sql:7`.
    package var place: String? { file.map { file in line.map { "\(file):\($0)" } ?? file } }
  }

  package struct Store: Sendable, Equatable, Codable {
    package var store: StoreName
    package var versionBefore: String?
    package var versionAfter: String?
    package var cases: [Case]

    package init(_ store: StoreName) { (self.store, cases) = (store, []) }
  }

  package var release: String
  package var point: String
  package var pointTime: Timestamp
  package var startedAt: Timestamp
  package var nanoseconds: Int64 = 0
  package var stores: [Store] = []
  /// Across stores.
  package var invariants: [Case] = []

  package init(release: String, point: String, pointTime: Timestamp, startedAt: Timestamp) {
    (self.release, self.point, self.pointTime, self.startedAt) = (release, point, pointTime, startedAt)
  }

  package var cases: [Case] { stores.flatMap(\.cases) + invariants }
  package var isCompatible: Bool {
    !cases.contains { $0.outcome == .failed } && cases.contains { $0.outcome == .passed }
  }

  /// For pipelines, as JUnit's readers agree on it; whatever a server said can't end an element.
  ///
  /// Source: github.com/testmoapp/junitxml, "JUnit XML file format".
  package var junit: String {
    func suite(_ name: String, _ cases: [Case]) -> [String] {
      let failed = cases.count { $0.outcome == .failed }
      let skipped = cases.count { $0.outcome == .skipped }
      let seconds = Self.seconds(cases.reduce(0) { $0 + $1.nanoseconds })
      return [
        "  <testsuite name=\"\(Self.escaped(name))\" tests=\"\(cases.count)\" failures=\"\(failed)\" errors=\"0\" "
          + "skipped=\"\(skipped)\" time=\"\(seconds)\" timestamp=\"\(startedAt.format(fractionDigits: 0))\">"
      ] + cases.flatMap { line($0, of: name) } + ["  </testsuite>"]
    }
    func line(_ one: Case, of suite: String) -> [String] {
      var head =
        "    <testcase classname=\"\(Self.escaped("\(suite).\(one.kind)"))\" name=\"\(Self.escaped(one.name))\""
      head += " time=\"\(Self.seconds(one.nanoseconds))\""
      if let file = one.file { head += " file=\"\(Self.escaped(file))\"" }
      if let line = one.line { head += " line=\"\(line)\"" }
      let message = Self.escaped(one.message ?? "")
      switch one.outcome {
      case .passed: return [head + "/>"]
      case .skipped: return [head + ">", "      <skipped message=\"\(message)\"/>", "    </testcase>"]
      case .failed:
        let text = Self.escaped([one.place, one.message].compactMap(\.self).joined(separator: ": "))
        return [
          head + ">", "      <failure message=\"\(message)\" type=\"\(Self.escaped(one.kind))\">\(text)</failure>",
          "    </testcase>",
        ]
      }
    }
    let failed = cases.count { $0.outcome == .failed }
    var lines = [
      "<?xml version=\"1.0\" encoding=\"UTF-8\"?>",
      "<testsuites name=\"\(Self.escaped("salvor compat \(release)"))\" tests=\"\(cases.count)\" failures=\"\(failed)\" "
        + "time=\"\(Self.seconds(nanoseconds))\">",
    ]
    for store in stores { lines += suite(store.store.text, store.cases) }
    if !invariants.isEmpty { lines += suite("invariants", invariants) }
    return (lines + ["</testsuites>"]).joined(separator: "\n") + "\n"
  }

  private static func seconds(_ nanoseconds: Int64) -> String {
    let milliseconds = nanoseconds / 1_000_000
    let rest = String(milliseconds % 1000)
    return "\(milliseconds / 1000)." + String(repeating: "0", count: 3 - rest.count) + rest
  }

  /// For text and for values of attributes. What XML can't hold at all is shown as a replacement character.
  ///
  /// Source: XML 1.0, sections 2.2, "Characters", and 2.4, "Character Data and Markup".
  package static func escaped(_ text: String) -> String {
    var result = ""
    for scalar in text.unicodeScalars {
      switch scalar {
      case "&": result += "&amp;"
      case "<": result += "&lt;"
      case ">": result += "&gt;"
      case "\"": result += "&quot;"
      case "'": result += "&apos;"
      case "\n", "\t", "\r": result += "&#\(scalar.value);"
      default:
        let isAllowed = scalar.value >= 32 && scalar.value != 0xfffe && scalar.value != 0xffff && scalar.value != 127
        result.unicodeScalars.append(isAllowed ? scalar : "\u{fffd}")
      }
    }
    return result
  }
}
