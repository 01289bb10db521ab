import Core

/// Who owns, who approves, who is called: of every service.
package struct Matrix: Sendable {
  package struct Row: Sendable, Equatable, Codable {
    package var service: String
    package var tier: String
    package var domain: String?
    package var owner: String?
    package var approvers: [String]
    package var escalation: [RunbookFacts.Call]
    package var impact: String?
    /// What nobody has said yet.
    package var missing: [String]
  }

  package let rows: [Row]

  package init(_ facts: RunbookFacts) {
    rows = facts.services.sorted { $0.name < $1.name }.map { service in
      var row = Row(
        service: service.name, tier: service.tier, domain: service.domain, owner: facts.owner(of: service),
        approvers: facts.approvers(of: service), escalation: facts.escalation(of: service),
        impact: facts.impact(of: service), missing: [])
      if row.owner == nil { row.missing.append("owner") }
      if row.approvers.isEmpty { row.missing.append("approvers") }
      if row.escalation.isEmpty { row.missing.append("escalation") }
      if row.impact == nil { row.missing.append("impact") }
      return row
    }
  }

  func block(of services: [RunbookFacts.Service]) -> Block {
    let names = Set(services.map(\.name))
    return .table(
      ["service", "owner", "approves", "is called first"],
      rows.filter { names.contains($0.service) }.map { row in
        [
          "\(code: row.service)", row.owner.map { Phrase($0) } ?? "nobody is named",
          row.approvers.isEmpty ? "nobody is named" : Phrase(row.approvers.joined(separator: ", ")),
          row.escalation.first.map { Phrase($0.who) } ?? "nobody is named",
        ]
      })
  }

  private static let head = ["service", "tier", "domain", "owner", "approvers", "escalation", "impact"]

  private func cells(_ row: Row) -> [String] {
    [
      row.service, row.tier, row.domain ?? "", row.owner ?? "", row.approvers.joined(separator: "; "),
      row.escalation.map { call in
        "\(call.afterSeconds == 0 ? "at once" : Duration.seconds(call.afterSeconds).brief) \(call.who)"
          + (call.how.map { " (\($0))" } ?? "")
      }.joined(separator: "; "), row.impact ?? "",
    ]
  }

  package var cellRows: [[String]] { [Self.head] + rows.map(cells) }

  package var markdown: String {
    Markdown.table(Self.head.map { Phrase($0) }, rows.map { cells($0).map { Phrase($0) } }).joined(separator: "\n")
      + "\n"
  }

  /// As RFC 4180 has it; a cell that a spreadsheet would take for a formula begins with `'`.
  package var csv: String {
    cellRows.map { row in
      row.map { cell in
        let text = OneLine.of(cell)
        let safe = text.first.map { "=+-@".contains($0) } ?? false ? "'" + text : text
        return "\"" + safe.replacing("\"", with: "\"\"") + "\""
      }.joined(separator: ",")
    }.joined(separator: "\r\n") + "\r\n"
  }
}
