import Core

/// A drawing as SVG: no script, nothing from elsewhere, readable on white and on black.
package enum SVG {
  /// - Parameter isAlone: As a file of its own, with a ground to stand on.
  package static func text(_ drawing: Drawing, isAlone: Bool = true) -> String {
    let layout = Layout(drawing)
    let size = "width=\"\(number(layout.width))\" height=\"\(number(layout.height))\""
    var lines = [
      "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"drawing\" \(size) "
        + "viewBox=\"0 0 \(number(layout.width)) \(number(layout.height))\" role=\"img\" "
        + "aria-label=\"\(HTML.escape(drawing.title))\">",
      "<title>\(HTML.escape(drawing.title))</title>",
    ]
    if isAlone { lines += ["<style>\(style)</style>", "<rect class=\"ground\" width=\"100%\" height=\"100%\"/>"] }
    for arrow in layout.arrows { lines += self.lines(of: arrow, drawing.edges[arrow.edge]) }
    for box in layout.boxes { lines += self.lines(of: box, drawing.nodes[box.node].kind) }
    return (lines + ["</svg>"]).joined(separator: "\n") + "\n"
  }

  /// Of drawings in a page, too.
  static let style = """
    .drawing{font:13px ui-monospace,"DejaVu Sans Mono","Liberation Mono",Menlo,Consolas,monospace;max-width:none}
    .drawing .ground{fill:#fff}
    .drawing .box{fill:#f4f6f8;stroke:#57606a;stroke-width:1.2}
    .drawing .store{fill:#e8f3ec}.drawing .repository{fill:#fdf3dc}.drawing .copy{fill:#fdf3dc;stroke-dasharray:4 3}
    .drawing .decision{fill:#e9effb;stroke-width:2}.drawing .end{fill:#e5e8eb}
    .drawing text{fill:#1b1f24}.drawing .more{fill:#4b535c}
    .drawing path{fill:none;stroke:#57606a;stroke-width:1.3}.drawing .dashed{stroke-dasharray:5 4}
    .drawing .head{fill:#57606a;stroke:none}
    @media (prefers-color-scheme:dark){
    .drawing .ground{fill:#14181d}
    .drawing .box{fill:#222a33;stroke:#9aa5b1}.drawing .store{fill:#1c3327}.drawing .repository,.drawing .copy{fill:#3a3019}
    .drawing .decision{fill:#1d2c47}.drawing .end{fill:#2d333b}
    .drawing text{fill:#eef1f4}.drawing .more{fill:#c3cad2}
    .drawing path{stroke:#9aa5b1}.drawing .head{fill:#9aa5b1}}
    @media print{.drawing{max-width:100%;height:auto}.drawing .box{fill:#fff!important;stroke:#000}.drawing text{fill:#000!important}}
    """

  private static func lines(of arrow: Layout.Arrow, _ edge: Drawing.Edge) -> [String] {
    guard let first = arrow.points.first, let last = arrow.points.last else { return [] }
    var path = "M\(number(first.x)) \(number(first.y))"
    for index in stride(from: 0, to: arrow.points.count - 1, by: 1) {
      let (a, b) = (arrow.points[index], arrow.points[index + 1])
      if a.x == b.x {
        path += "L\(number(b.x)) \(number(b.y))"
      } else {
        let middle = (a.y + b.y) / 2
        path +=
          "C\(number(a.x)) \(number(middle)) \(number(b.x)) \(number(middle)) \(number(b.x)) \(number(b.y))"
      }
    }
    let tip = arrow.isReversed ? first : last
    let back = arrow.isReversed ? 8.0 : -8.0
    let head =
      "\(number(tip.x)),\(number(tip.y)) \(number(tip.x - 4.5)),\(number(tip.y + back)) "
      + "\(number(tip.x + 4.5)),\(number(tip.y + back))"
    return [
      "<path\(edge.isDashed || arrow.isReversed ? " class=\"dashed\"" : "") d=\"\(path)\"/>",
      "<polygon class=\"head\" points=\"\(head)\"/>",
    ]
  }

  private static func lines(of box: Layout.Box, _ kind: Drawing.Kind) -> [String] {
    let radius = kind == .service || kind == .step ? 4.0 : kind == .decision ? 0 : 12
    let place =
      "x=\"\(number(box.x))\" y=\"\(number(box.y))\" width=\"\(number(box.width))\" height=\"\(number(box.height))\""
    var lines = ["<rect class=\"box \(kind.rawValue)\" \(place) rx=\"\(number(radius))\"/>"]
    let middle = number(box.x + box.width / 2)
    for (index, text) in box.lines.enumerated() {
      let y = box.y + 6 + Layout.lineHeight * (Double(index) + 0.72)
      let look = index == 0 ? "" : " class=\"more\""
      lines.append("<text\(look) x=\"\(middle)\" y=\"\(number(y))\" text-anchor=\"middle\">\(HTML.escape(text))</text>")
    }
    return lines
  }

  /// At most two digits, no zeros at the end; never `1e3`.
  private static func number(_ value: Double) -> String {
    let hundredths = Int((value * 100).rounded())
    let (whole, rest) = (abs(hundredths) / 100, abs(hundredths) % 100)
    let sign = hundredths < 0 ? "-" : ""
    if rest == 0 { return "\(sign)\(whole)" }
    if rest % 10 == 0 { return "\(sign)\(whole).\(rest / 10)" }
    return "\(sign)\(whole).\(rest < 10 ? "0" : "")\(rest)"
  }
}
