import Core

/// A page as one file of HTML that needs nothing else, on a screen and on paper.
package struct HTML {
  private let notes: Notes

  package init(notes: Notes = Notes()) { self.notes = notes }

  package func render(_ page: Page) -> String {
    let titles = Dictionary(page.steps.map { ($0.id, $0.label) }, uniquingKeysWith: { first, _ in first })
    var lines = [
      "<!DOCTYPE html>", "<html lang=\"en\">", "<head>", "<meta charset=\"utf-8\">",
      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">",
      "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">",
      "<title>\(Self.escape(page.title))</title>", "<style>\(Self.style)\(SVG.style)</style>", "</head>", "<body>",
      "<h1>\(Self.escape(page.title))</h1>", "<nav><ul>",
    ]
    lines += page.sections.map { "<li><a href=\"#\(Self.escape($0.id))\">\(Self.escape($0.title))</a></li>" }
    lines += ["</ul></nav>", "<main>"]
    for section in page.sections {
      lines += ["<section id=\"\(Self.escape(section.id))\">", "<h2>\(Self.escape(section.title))</h2>"]
      for block in section.blocks { lines += self.lines(of: block, titles) }
      if let text = notes.texts[section.id] { lines += note(text) }
      lines.append("</section>")
    }
    let names = Set(page.sections.map(\.id))
    for (name, text) in notes.texts.sorted(by: { $0.key < $1.key }) where !names.contains(name) { lines += note(text) }
    lines += ["</main>", "<footer>"] + page.footer.map { "<p>\(Self.inline($0))</p>" }
    return (lines + ["</footer>", "</body>", "</html>"]).joined(separator: "\n") + "\n"
  }

  private func note(_ lines: [String]) -> [String] {
    ["<aside class=\"notes\"><pre>\(Self.escape(lines.joined(separator: "\n"), keepsLines: true))</pre></aside>"]
  }

  private func lines(of block: Block, _ titles: [String: String]) -> [String] {
    switch block {
    case .text(let phrase): ["<p>\(Self.inline(phrase))</p>"]
    case .bullets(let items): ["<ul>"] + items.map { "<li>\(Self.inline($0))</li>" } + ["</ul>"]
    case .heading(let title): ["<h3>\(Self.escape(title))</h3>"]
    case .anchor(let id): ["<a id=\"\(Self.escape(id))\"></a>"]
    case .table(let head, let rows): Self.table(head, rows)
    case .step(let step): lines(of: step, titles)
    case .drawing(let drawing):
      [
        "<figure>",
        SVG.text(drawing, isAlone: false) + "<figcaption>\(Self.escape(drawing.title))</figcaption></figure>",
      ]
    }
  }

  private func lines(of step: Step, _ titles: [String: String]) -> [String] {
    var lines = ["<article class=\"step\" id=\"\(Self.escape(step.id))\">", "<h3>\(Self.escape(step.label))</h3>"]
    lines += step.text.map { "<p>\(Self.inline($0))</p>" }
    let facts = [("who", step.who), ("approved by", step.approver), ("expected time", step.time)]
    let known = facts.compactMap { name, value in value.map { "<dt>\(name)</dt><dd>\(Self.inline($0))</dd>" } }
    if !known.isEmpty { lines += ["<dl>"] + known + ["</dl>"] }
    if !step.needs.isEmpty {
      lines += ["<ul>"]
      lines += step.needs.map { "<li>fill in <code>\(Self.escape($0.name))</code>: \(Self.inline($0.meaning))</li>" }
      lines += ["</ul>"]
    }
    if let command = step.command {
      lines.append("<pre class=\"command\">\(Self.escape(command, keepsLines: true))</pre>")
    }
    let rows = step.outcomes.map { outcome -> [Phrase] in
      let link = Markdown.target(outcome.target, titles)
      return [outcome.condition.phrase, outcome.advice.map { $0 + ": " + link } ?? link]
    }
    if !rows.isEmpty { lines += Self.table(["what comes of it", "then"], rows) }
    return lines + ["<p class=\"done\">done at ________ by ________</p>", "</article>"]
  }

  private static func table(_ head: [Phrase], _ rows: [[Phrase]]) -> [String] {
    ["<table>", "<thead><tr>" + head.map { "<th>\(inline($0))</th>" }.joined() + "</tr></thead>", "<tbody>"]
      + rows.map { row in "<tr>" + row.map { "<td>\(inline($0))</td>" }.joined() + "</tr>" } + ["</tbody>", "</table>"]
  }

  static func inline(_ phrase: Phrase) -> String {
    phrase.spans.map { span in
      switch span {
      case .plain(let text): escape(text)
      case .code(let text): "<code>\(escape(text))</code>"
      case .strong(let text): "<strong>\(escape(text))</strong>"
      case .link(let text, let target):
        "<a href=\"\(escape(Percent.encode(target.hasSuffix(".md") ? String(target.dropLast(3)) + ".html" : target)))\">"
          + "\(escape(text))</a>"
      }
    }.joined()
  }

  /// Text that is only text, between tags and in an attribute's quotes.
  package static func escape(_ text: String, keepsLines: Bool = false) -> String {
    let parts =
      keepsLines
      ? text.split(separator: "\n", omittingEmptySubsequences: false).map { OneLine.of(String($0)) }
      : [OneLine.of(text)]
    var result = ""
    for character in parts.joined(separator: "\n") {
      switch character {
      case "<": result += "&lt;"
      case ">": result += "&gt;"
      case "&": result += "&amp;"
      case "\"": result += "&quot;"
      case "'": result += "&#39;"
      default: result.append(character)
      }
    }
    return result
  }

  private static let style = """
    :root{color-scheme:light dark}
    body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1b1f24;background:#fff}
    h1{line-height:1.2}h2{margin-top:2.5rem;border-bottom:2px solid #57606a}
    table{border-collapse:collapse;margin:.8rem 0;width:100%}th,td{border:1px solid #9aa5b1;padding:.3rem .6rem;text-align:left;vertical-align:top}
    code,pre{font-family:ui-monospace,"DejaVu Sans Mono",monospace;font-size:.9em;overflow-wrap:anywhere}
    pre.command{background:#f4f6f8;border-left:4px solid #0b57d0;padding:.7rem;white-space:pre-wrap}
    .notes{border-left:4px solid #8a6d00;padding-left:.8rem}.notes pre{white-space:pre-wrap}
    dl{display:grid;grid-template-columns:max-content 1fr;gap:.1rem 1rem;margin:.4rem 0}dt{font-weight:600}dd{margin:0}
    .step{break-inside:avoid;margin:1.6rem 0}.done{color:#57606a;font-size:.85em}figure{margin:1rem 0;overflow-x:auto}svg.drawing{max-width:100%;height:auto}td:first-child code{overflow-wrap:normal;white-space:nowrap}
    figcaption{font-size:.85em}footer{margin-top:3rem;border-top:2px solid #57606a;font-size:.85em}
    @media (prefers-color-scheme:dark){body{color:#eef1f4;background:#14181d}pre.command{background:#222a33}a{color:#8ab4f8}.done{color:#c3cad2}}
    @media print{body{max-width:none;margin:0;font-size:10.5pt}nav{display:none}a{color:inherit;text-decoration:none}pre.command{border:1px solid #000}}

    """
}
