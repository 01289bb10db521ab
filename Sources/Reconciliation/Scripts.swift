import Catalog
import Core
import DriverKit

/// A proposal as files a person reads: one for each store, one for programs. What is applied is what they show.
package enum Scripts {
  /// - Returns: Names and contents, sorted by name.
  package static func files(of proposal: Proposal) throws -> [(name: String, text: String)] {
    let digest = try proposal.digest().hex
    var files: [String: String] = [:]
    for correction in proposal.corrections {
      let (name, mark, text) = try lines(correction)
      if files[name] == nil {
        files[name] =
          "\(mark) corrections of report \(proposal.report), digest \(digest)\n"
          + "\(mark) each acts only if the state is still what was seen, and once\n"
      }
      let about = "\(correction.about.rule) \(correction.about.kind.rawValue) \(shown(correction.about.key))"
      files[name, default: ""] += "\n\(mark) \(correction.id): \(about)\n\(text)\n"
    }
    if !proposal.unproposed.isEmpty {
      files["by-hand.txt"] = proposal.unproposed.map {
        "\($0.about.rule) \($0.about.kind.rawValue) \(shown($0.about.key)): \($0.why)\n"
      }.joined()
    }
    return files.map { ($0.key, $0.value) }.sorted { $0.0 < $1.0 }
  }

  private static func lines(_ correction: Correction) throws -> (name: String, mark: String, text: String) {
    switch correction.action {
    case .change(.statement(let text)): return ("\(correction.store).sql", "--", text + ";")
    case .change(.commands(let expecting, let run)):
      let keys = Set(expecting.map { $0.command[1] } + run.map { $0[1] }).sorted()
      var lines = ["WATCH \(keys.map(word).joined(separator: " "))"]
      for expected in expecting {
        lines.append(
          "# \(expected.command.map(word).joined(separator: " ")) must answer \(expected.answer.map(word) ?? "nothing")"
        )
      }
      lines += ["MULTI"] + run.map { $0.map(word).joined(separator: " ") } + ["EXEC"]
      return ("\(correction.store).resp", "#", lines.joined(separator: "\n"))
    case .change(.setAside(let path, let size, let sha256)):
      var test = "[ \"$(stat -c %s -- \(shell(path)))\" = \(size) ]"
      if let sha256 { test += " && [ \"$(sha256sum < \(shell(path)) | cut -c 1-64)\" = \(sha256) ]" }
      let target = shell("../.salvor-aside/" + path)
      return (
        "\(correction.store).sh", "#",
        "\(test) && mkdir -p -- \"$(dirname -- \(target))\" && mv -n -T -- \(shell(path)) \(target)"
      )
    case .run(let command, let input):
      return (
        "programs.jsonl", "#",
        try CanonicalJSON.text(["words": JSONValue.array(command.words.map { .string($0) }), "input": .string(input)])
      )
    }
  }

  /// One line, whatever is in it.
  static func shown(_ key: [String]) -> String { key.map(word).joined(separator: " ") }

  /// As redis-cli reads it.
  static func word(_ text: String) -> String {
    if !text.isEmpty,
      text.utf8.allSatisfy({ ($0 >= 48 && $0 <= 58) || ($0 | 32 >= 97 && $0 | 32 <= 122) || "-_./".utf8.contains($0) })
    {
      return text
    }
    var result = "\""
    for byte in text.utf8 {
      switch byte {
      case 34: result += "\\\""
      case 92: result += "\\\\"
      case 10: result += "\\n"
      case 32...126: result.unicodeScalars.append(Unicode.Scalar(byte))
      default: result += "\\x" + Hex.encode([byte])
      }
    }
    return result + "\""
  }

  static func shell(_ text: String) -> String {
    // A name that begins with a dash is no option then.
    "'" + (text.hasPrefix("/") ? text : "./" + text).replacing("'", with: "'\\''") + "'"
  }
}
