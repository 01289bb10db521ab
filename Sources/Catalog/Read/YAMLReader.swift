import CYaml

// libyaml's events, taken straight from the copy of it that Yams brings along. Yams' own `Node` is composed from the
// same events, but takes fifteen times as long (10,000 services: 1.03 s against 0.07), hashes keys (a billion
// aliases as one key never end) and stops at the first duplicate key.

/// What a file may cost its reader, so that a hostile one is refused instead of obeyed.
struct YAMLLimits: Sendable {
  var fileBytes = 64 << 20
  var depth = 64
  /// Values in one file, each alias counted as everything it stands for.
  var values = 8_000_000
}

/// A document that did not fit YAML, or a limit.
struct YAMLProblem: Error {
  enum Kind { case syntax, limit, duplicateKey, unsupported }
  var kind: Kind
  var mark: Mark
  var message: String
  var remedy: String?
}

/// Turns a file into documents. What is broken beyond the first syntax error can't be read; everything before is.
struct YAMLReader: ~Copyable {
  private let parser: UnsafeMutablePointer<yaml_parser_t>
  private let bytes: UnsafeMutableBufferPointer<UInt8>
  private let limits: YAMLLimits
  private var anchors: [String: (node: YAMLNode, weight: Int)] = [:]
  private var total = 0
  /// Problems that did not keep the document from being read.
  private(set) var problems: [YAMLProblem] = []

  init(_ text: String, limits: YAMLLimits = YAMLLimits()) {
    self.limits = limits
    parser = .allocate(capacity: 1)
    parser.initialize(to: yaml_parser_t())
    bytes = .allocate(capacity: max(1, text.utf8.count))
    _ = bytes.update(fromContentsOf: Array(text.utf8))
    yaml_parser_initialize(parser)
    yaml_parser_set_encoding(parser, YAML_UTF8_ENCODING)
    yaml_parser_set_input_string(parser, bytes.baseAddress, text.utf8.count)
  }

  deinit {
    yaml_parser_delete(parser)
    parser.deallocate()
    bytes.deallocate()
  }

  /// Every document of the file, in order; `problems` holds what was wrong.
  mutating func documents() -> [YAMLNode] {
    var result: [YAMLNode] = []
    guard bytes.count <= limits.fileBytes else {
      problems.append(
        YAMLProblem(
          kind: .limit, mark: .start, message: "the file has more than \(limits.fileBytes >> 20) MiB",
          remedy: "split it into several files"))
      return []
    }
    do throws(YAMLProblem) {
      while let document = try nextDocument() { result.append(document) }
    } catch {
      problems.append(error)
    }
    return result
  }

  // MARK: One document

  /// A collection that is still open.
  private struct Open {
    var isMapping: Bool
    var mark: Mark
    var anchor: String?
    var items: [YAMLNode] = []
    var members: [YAMLNode.Member] = []
    var key: (text: String, mark: Mark)?
    /// Values in it so far, aliases counted in full.
    var weight = 1
  }

  private mutating func nextDocument() throws(YAMLProblem) -> YAMLNode? {
    var stack: [Open] = []
    var root: YAMLNode?
    anchors.removeAll(keepingCapacity: true)

    while true {
      var event = yaml_event_t()
      guard yaml_parser_parse(parser, &event) == 1 else { throw syntaxProblem() }
      defer { yaml_event_delete(&event) }
      let mark = Mark(event.start_mark)

      var finished: (node: YAMLNode, weight: Int)?
      switch event.type {
      case YAML_STREAM_END_EVENT: return nil
      case YAML_DOCUMENT_END_EVENT: return root
      case YAML_SCALAR_EVENT:
        let scalar = event.data.scalar
        let text = String(decoding: UnsafeBufferPointer(start: scalar.value, count: scalar.length), as: UTF8.self)
        let node = YAMLNode(
          content: .scalar(text, isPlain: scalar.style == YAML_PLAIN_SCALAR_STYLE && scalar.tag == nil), mark: mark)
        if let anchor = name(scalar.anchor) { anchors[anchor] = (node, 1) }
        finished = (node, 1)
      case YAML_ALIAS_EVENT:
        let anchor = name(event.data.alias.anchor) ?? ""
        guard let known = anchors[anchor] else {
          throw YAMLProblem(
            kind: .syntax, mark: mark, message: "alias '*\(anchor)' has no anchor before it",
            remedy: "put '&\(anchor)' in front of the value it stands for, in the same document")
        }
        finished = known
      case YAML_SEQUENCE_START_EVENT, YAML_MAPPING_START_EVENT:
        guard stack.count < limits.depth else {
          throw YAMLProblem(
            kind: .limit, mark: mark, message: "nested more than \(limits.depth) levels deep",
            remedy: "no manifest needs that; flatten it")
        }
        let isMapping = event.type == YAML_MAPPING_START_EVENT
        stack.append(
          Open(
            isMapping: isMapping, mark: mark,
            anchor: name(isMapping ? event.data.mapping_start.anchor : event.data.sequence_start.anchor)))
      case YAML_SEQUENCE_END_EVENT, YAML_MAPPING_END_EVENT:
        guard let open = stack.popLast() else { continue }
        let content: YAMLNode.Content = open.isMapping ? .mapping(settled(open.members)) : .sequence(open.items)
        let node = YAMLNode(content: content, mark: open.mark)
        if let anchor = open.anchor { anchors[anchor] = (node, open.weight) }
        finished = (node, open.weight)
      default: continue
      }

      guard let finished else { continue }
      if stack.isEmpty {
        root = finished.node
        continue
      }
      try add(finished.node, weight: finished.weight, mark: mark, to: &stack[stack.count - 1])
    }
  }

  private mutating func add(
    _ node: YAMLNode, weight: Int, mark: Mark, to open: inout Open
  ) throws(YAMLProblem) {
    open.weight = min(open.weight + weight, limits.values + 1)
    total += 1
    guard open.weight <= limits.values, total <= limits.values else {
      throw YAMLProblem(
        kind: .limit, mark: mark, message: "more than \(limits.values) values, aliases counted in full",
        remedy: "write fewer aliases, or split the file")
    }
    guard open.isMapping else {
      open.items.append(node)
      return
    }
    guard let key = open.key else {
      guard case .scalar(let text, _) = node.content else {
        throw YAMLProblem(
          kind: .unsupported, mark: mark, message: "a key must be a single value, not \(node.kind)",
          remedy: "quote it if it was meant as text")
      }
      open.key = (text, mark)
      return
    }
    open.key = nil
    open.members.append(YAMLNode.Member(key: key.text, keyMark: key.mark, value: node))
  }

  /// Each key once, the first one counting; `<<` replaced by the members of what it names, where they are not given.
  private mutating func settled(_ members: [YAMLNode.Member]) -> [YAMLNode.Member] {
    let merges = members.contains { $0.key == "<<" }
    if !merges, members.count <= 1 { return members }
    // Most mappings are small, and comparing beats hashing there.
    var seen: Set<String> = []
    let isSmall = members.count <= 16
    func isRepeated(_ index: Int, _ members: [YAMLNode.Member]) -> Bool {
      isSmall
        ? members[..<index].contains { $0.key == members[index].key } : !seen.insert(members[index].key).inserted
    }
    var repeated: [Int] = []
    for index in members.indices where isRepeated(index, members) { repeated.append(index) }
    if !merges, repeated.isEmpty { return members }

    for index in repeated {
      problems.append(
        YAMLProblem(
          kind: .duplicateKey, mark: members[index].keyMark, message: "'\(members[index].key)' is given twice",
          remedy: "keep one of the two"))
    }
    let dropped = Set(repeated)
    var result = members.indices.filter { !dropped.contains($0) && members[$0].key != "<<" }.map { members[$0] }
    var present = Set(members.map(\.key))
    for index in members.indices where members[index].key == "<<" && !dropped.contains(index) {
      let value = members[index].value
      let sources: [YAMLNode] = if case .sequence(let items) = value.content { items } else { [value] }
      for source in sources {
        guard case .mapping(let merged) = source.content else {
          problems.append(
            YAMLProblem(
              kind: .unsupported, mark: source.mark, message: "'<<' merges mappings, and this is \(source.kind)",
              remedy: "name the anchor of a mapping"))
          continue
        }
        for member in merged where present.insert(member.key).inserted { result.append(member) }
      }
    }
    return result
  }

  private func syntaxProblem() -> YAMLProblem {
    let state = parser.pointee
    var message = state.problem.map { String(cString: $0) } ?? "not YAML"
    if let context = state.context { message += " " + String(cString: context) }
    var mark = Mark(state.problem_mark)
    if state.error == YAML_READER_ERROR {
      mark = self.mark(atByte: state.problem_offset)
      message = "a character that YAML does not allow: \(message)"
    }
    return YAMLProblem(
      kind: .syntax, mark: mark, message: message,
      remedy: "check the indentation and the quotes here and in the line before; nothing after this is read")
  }

  private func mark(atByte offset: Int) -> Mark {
    var mark = Mark.start
    for byte in bytes.prefix(max(0, offset)) {
      if byte == 10 {
        mark.line += 1
        mark.column = 1
      } else if byte & 0xc0 != 0x80 {
        mark.column += 1
      }
    }
    return mark
  }
}

private func name(_ pointer: UnsafeMutablePointer<yaml_char_t>?) -> String? { pointer.map { String(cString: $0) } }

extension Mark {
  fileprivate init(_ mark: yaml_mark_t) {
    line = Int32(clamping: mark.line) &+ (mark.line < Int32.max ? 1 : 0)
    column = Int32(clamping: mark.column) &+ (mark.column < Int32.max ? 1 : 0)
  }
}
