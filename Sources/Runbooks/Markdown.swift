import Core

/// A page as Markdown. What comes from manifests can't become markup: it is escaped, fenced or quoted.
package struct Markdown {
  private let notes: Notes
  /// Where a drawing's own file is, by its name; none is linked without.
  private let picture: (Drawing) -> String?

  package init(notes: Notes = Notes(), picture: @escaping (Drawing) -> String? = { _ in nil }) {
    (self.notes, self.picture) = (notes, picture)
  }

  package func render(_ page: Page) -> String {
    let titles = Dictionary(page.steps.map { ($0.id, $0.label) }, uniquingKeysWith: { first, _ in first })
    var lines = ["# \(Self.escape(page.title))", ""]
    lines += page.sections.map { "- [\(Self.escape($0.title))](#\($0.id))" } + [""]
    for section in page.sections {
      lines += ["<a id=\"\(section.id)\"></a>", "", "## \(Self.escape(section.title))", ""]
      for block in section.blocks { lines += self.lines(of: block, titles) + [""] }
      lines += notes.lines(of: section.id) + [""]
    }
    lines += notes.lost(among: page.sections.map(\.id))
    lines += ["---", ""] + page.footer.flatMap { [Self.inline($0), ""] }
    while lines.last == "" { lines.removeLast() }
    return lines.joined(separator: "\n") + "\n"
  }

  private func lines(of block: Block, _ titles: [String: String]) -> [String] {
    switch block {
    case .text(let phrase): [Self.inline(phrase)]
    case .bullets(let items): items.map { "- \(Self.inline($0))" }
    case .heading(let title): ["### \(Self.escape(title))"]
    case .anchor(let id): ["<a id=\"\(id)\"></a>"]
    case .table(let head, let rows): Self.table(head, rows)
    case .step(let step): lines(of: step, titles)
    case .drawing(let drawing):
      Self.fenced(Mermaid.text(drawing), "mermaid")
        + (picture(drawing).map { ["", "The same as a picture: [\($0)](\($0))."] } ?? [])
    }
  }

  private func lines(of step: Step, _ titles: [String: String]) -> [String] {
    var lines = ["<a id=\"\(step.id)\"></a>", "", "### \(Self.escape(step.label))", ""]
    for text in step.text { lines += [Self.inline(text), ""] }
    let facts = [("who", step.who), ("approved by", step.approver), ("expected time", step.time)]
    let known = facts.compactMap { name, value in value.map { "- **\(name):** \(Self.inline($0))" } }
    if !known.isEmpty { lines += known + [""] }
    if !step.needs.isEmpty {
      lines += step.needs.map { "- **fill in:** \(Self.code($0.name)): \(Self.inline($0.meaning))" } + [""]
    }
    if let command = step.command { lines += Self.fenced(command, "sh") + [""] }
    let rows = step.outcomes.map { outcome -> [Phrase] in
      let link = Self.target(outcome.target, titles)
      return [outcome.condition.phrase, outcome.advice.map { $0 + ": " + link } ?? link]
    }
    if !rows.isEmpty { lines += Self.table(["what comes of it", "then"], rows) }
    while lines.last == "" { lines.removeLast() }
    return lines
  }

  /// What an outcome leads to, in words.
  static func target(_ id: String, _ titles: [String: String]) -> Phrase {
    id == Step.end ? "\(link: "the end", to: "#end")" : "\(link: titles[id] ?? id, to: "#\(id)")"
  }

  // MARK: Escaping

  static func inline(_ phrase: Phrase, inTable: Bool = false) -> String {
    phrase.spans.map { span in
      switch span {
      case .plain(let text): escape(text)
      case .code(let text): code(text, inTable: inTable)
      case .strong(let text): "**\(escape(text))**"
      case .link(let text, let target): "[\(escape(text))](\(Percent.encode(target)))"
      }
    }.joined()
  }

  private static let special = Set("\\`*_{}[]()#+|~!$")

  /// Text that is only text, wherever it stands.
  static func escape(_ text: String) -> String {
    var result = ""
    for character in OneLine.of(text) {
      switch character {
      case "<": result += "&lt;"
      case ">": result += "&gt;"
      case "&": result += "&amp;"
      case "-" where result.isEmpty: result += "\\-"
      default:
        // Brackets of all kinds only where they could make something.
        if special.contains(character), !"()#+!$".contains(character) || result.isEmpty { result.append("\\") }
        result.append(character)
      }
    }
    return result
  }

  static func code(_ text: String, inTable: Bool = false) -> String {
    let line = OneLine.of(text)
    if line.isEmpty { return "–" }
    let fence = String(repeating: "`", count: longestRun(of: "`", in: line) + 1)
    let pad = line.hasPrefix("`") || line.hasSuffix("`") || line.hasPrefix(" ") ? " " : ""
    let body = inTable ? line.replacing("|", with: "\\|") : line
    return fence + pad + body + pad + fence
  }

  static func fenced(_ text: String, _ language: String) -> [String] {
    let fence = String(repeating: "`", count: max(3, longestRun(of: "`", in: text) + 1))
    return [fence + language]
      + text.split(separator: "\n", omittingEmptySubsequences: false).map(String.init) + [fence]
  }

  static func table(_ head: [Phrase], _ rows: [[Phrase]]) -> [String] {
    func line(_ cells: [Phrase]) -> String {
      "| " + cells.map { inline($0, inTable: true) }.joined(separator: " | ") + " |"
    }
    return [line(head), "|" + head.map { _ in "---|" }.joined()] + rows.map(line)
  }

  private static func longestRun(of character: Character, in text: String) -> Int {
    var (longest, run) = (0, 0)
    for other in text {
      run = other == character ? run + 1 : 0
      longest = max(longest, run)
    }
    return longest
  }
}

/// Text without characters that end lines, move the cursor or turn the direction of reading.
enum OneLine {
  static func of(_ text: String) -> String {
    var result = String.UnicodeScalarView()
    for scalar in text.unicodeScalars {
      switch scalar.properties.generalCategory {
      case .control, .lineSeparator, .paragraphSeparator: result.append(" ")
      case .format, .surrogate, .privateUse: break
      default: result.append(scalar)
      }
    }
    return String(result)
  }
}

/// Addresses within an edition.
enum Percent {
  static func encode(_ text: String) -> String {
    var result = ""
    for byte in text.utf8 {
      let isPlain =
        (48...57).contains(byte) || (65...90).contains(byte) || (97...122).contains(byte)
        || "-._~/#".utf8.contains(byte)
      result += isPlain ? String(UnicodeScalar(byte)) : "%" + Hex.encode([byte])
    }
    return result
  }
}
