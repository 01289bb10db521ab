/// Rows of text under a header, aligned; numbers to the right.
package struct Table: Sendable {
  package enum Alignment: Sendable { case left, right }

  package struct Column: Sendable {
    package var title: String
    package var alignment: Alignment

    package init(_ title: String, _ alignment: Alignment = .left) { (self.title, self.alignment) = (title, alignment) }
  }

  package var columns: [Column]
  package private(set) var rows: [[String]] = []

  package init(_ columns: [Column]) { self.columns = columns }

  package init(_ titles: String...) { columns = titles.map { Column($0) } }

  package mutating func add(_ cells: [String]) {
    precondition(cells.count == columns.count, "a row has a cell per column")
    rows.append(cells)
  }

  package mutating func add(_ cells: String...) { add(cells) }

  /// One line per row, header first; blanks at the end are trimmed. On a terminal the last column ends at its edge.
  package func lines(_ style: Style) -> [String] {
    var widths = columns.map(\.title.displayWidth)
    for row in rows {
      for (index, cell) in row.enumerated() { widths[index] = max(widths[index], cell.displayWidth) }
    }
    func line(_ cells: [String]) -> String {
      var text = ""
      for (index, cell) in cells.enumerated() {
        let padding = String(repeating: " ", count: widths[index] - cell.displayWidth)
        let isLast = index == cells.count - 1
        switch columns[index].alignment {
        case .left where isLast:
          let room = style.width.map { max(8, $0 - text.displayWidth) }
          text += room.map { cell.cut(to: $0) } ?? cell
        case .left: text += cell + padding
        case .right: text += padding + cell
        }
        if !isLast { text += "  " }
      }
      while text.last == " " { text.removeLast() }
      return text
    }
    return [style.paint(line(columns.map { $0.title.uppercased() }), .faint)] + rows.map(line)
  }
}

/// Bytes as people read them: `0 B`, `1.4 KiB`, `16.0 MiB`.
package func formatBytes(_ count: Int64) -> String {
  let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"]
  var value = Double(abs(count))
  var unit = 0
  while value >= 1024, unit < units.count - 1 {
    value /= 1024
    unit += 1
  }
  let sign = count < 0 ? "-" : ""
  if unit == 0 { return "\(sign)\(Int(value)) B" }
  let tenths = Int((value * 10).rounded())
  return "\(sign)\(tenths / 10).\(tenths % 10) \(units[unit])"
}
