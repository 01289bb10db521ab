import Core

/// A graph to be drawn: boxes with a few words, and arrows.
package struct Drawing: Sendable, Equatable {
  package enum Kind: String, Sendable, CaseIterable {
    case service, store, repository, copy, step, decision, end
  }

  package struct Node: Sendable, Equatable {
    package var id: String
    /// The first is the name.
    package var lines: [String]
    package var kind: Kind

    package init(_ id: String, _ lines: [String], _ kind: Kind) {
      (self.id, self.lines, self.kind) = (id, lines, kind)
    }
  }

  package struct Edge: Sendable, Equatable {
    package var from: String
    package var to: String
    package var isDashed: Bool

    package init(_ from: String, _ to: String, isDashed: Bool = false) {
      (self.from, self.to, self.isDashed) = (from, to, isDashed)
    }
  }

  /// A file's name without its ending.
  package var name: String
  package var title: String
  package var nodes: [Node]
  /// Those whose ends aren't both nodes are left out.
  package var edges: [Edge]

  package init(name: String, title: String, nodes: [Node], edges: [Edge]) {
    (self.name, self.title, self.nodes) = (name, title, nodes)
    let known = Set(nodes.map(\.id))
    self.edges = edges.filter { known.contains($0.from) && known.contains($0.to) && $0.from != $0.to }
  }
}

/// A drawing as Mermaid.
package enum Mermaid {
  package static func text(_ drawing: Drawing) -> String {
    var lines = ["flowchart TD"]
    var numbers: [String: Int] = [:]
    for (index, node) in drawing.nodes.enumerated() where numbers[node.id] == nil {
      numbers[node.id] = index
      let (open, close) = shape(node.kind)
      lines.append("  n\(index)\(open)\"\(node.lines.map(quoted).joined(separator: "<br/>"))\"\(close)")
    }
    for edge in drawing.edges {
      guard let from = numbers[edge.from], let to = numbers[edge.to] else { continue }
      lines.append("  n\(from) \(edge.isDashed ? "-.->" : "-->") n\(to)")
    }
    return lines.joined(separator: "\n")
  }

  private static func shape(_ kind: Drawing.Kind) -> (String, String) {
    switch kind {
    case .service, .step: ("[", "]")
    case .store, .repository, .copy: ("[(", ")]")
    case .decision: ("{{", "}}")
    case .end: ("([", "])")
    }
  }

  /// Everything but letters, digits and a few marks as a character's number: nothing in it can end the label.
  private static func quoted(_ text: String) -> String {
    OneLine.of(text).unicodeScalars.map { scalar in
      let isPlain =
        scalar.properties.isAlphabetic || scalar.properties.numericType != nil
        || " -._:/,".unicodeScalars.contains(scalar)
      return isPlain ? String(scalar) : "#\(scalar.value);"
    }.joined()
  }
}
