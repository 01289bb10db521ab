/// A YAML document for readers outside of the catalog, such as that of redaction policies: the same limits, the same refusals.
package struct YAMLValue: Sendable {
  package enum Content: Sendable {
    case nothing
    case scalar(String)
    case sequence([YAMLValue])
    case mapping([Member])
  }

  package struct Member: Sendable {
    package var key: String
    package var line: Int
    package var value: YAMLValue
  }

  package var content: Content
  /// From 1.
  package var line: Int

  private init(_ node: YAMLNode) {
    line = Int(node.mark.line)
    switch node.content {
    case .scalar(let text, _): content = node.isNull ? .nothing : .scalar(text)
    case .sequence(let items): content = .sequence(items.map { YAMLValue($0) })
    case .mapping(let members):
      content = .mapping(
        members.map { Member(key: $0.key, line: Int($0.keyMark.line), value: YAMLValue($0.value)) })
    }
  }

  /// What is wrong with a text, where.
  package struct Problem: Error, Equatable {
    package var line: Int
    package var message: String
  }

  /// - Throws: The first problem, of duplicate keys too: nothing that was written is passed over.
  package static func documents(of text: String) throws(Problem) -> [YAMLValue] {
    var reader = YAMLReader(text, limits: YAMLLimits(fileBytes: 8 << 20, depth: 64, values: 1_000_000))
    let nodes = reader.documents()
    if let problem = reader.problems.first {
      throw Problem(line: Int(problem.mark.line), message: problem.message)
    }
    return nodes.filter { !$0.isNull }.map { YAMLValue($0) }
  }
}
