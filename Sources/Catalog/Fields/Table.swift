import Core

/// One field of a record: its name, what it holds, and where it goes.
struct Field<Record: Sendable>: Sendable {
  let shape: RecordShape.Field
  let read: @Sendable (YAMLNode, inout Record, inout Decoding) -> Void

  var name: String { shape.name }

  /// - Parameter fallback: As the reference shows the default; the value itself is the record's initial one.
  init<Value: Sendable>(
    _ name: String, _ path: any WritableKeyPath<Record, Value> & Sendable, _ codec: Codec<Value>,
    required: Bool = false, default fallback: String? = nil, _ help: String
  ) {
    shape = .init(name: name, shape: codec.shape, isRequired: required, fallback: fallback, help: help)
    read = { node, record, decoding in
      if let value = codec.read(node, &decoding) { record[keyPath: path] = value }
    }
  }
}

/// The fields of a mapping: what the decoder reads by, and what schema and reference are printed from.
struct Table<Record: Sendable>: Sendable {
  let shape: RecordShape
  private let fields: [Field<Record>]
  private let positions: [String: Int]
  private let initial: @Sendable () -> Record
  /// Reads `driverName: {options}`.
  private let driverKey: (@Sendable (Located<DriverName>, YAMLNode, inout Record, inout Decoding) -> Void)?
  /// Looks at the record as a whole.
  private let finish: (@Sendable (inout Record, YAMLNode, inout Decoding) -> Void)?

  init(
    _ name: String, _ help: String, initial: @escaping @Sendable () -> Record, choices: [RecordShape.Choice] = [],
    driverKey: (@Sendable (Located<DriverName>, YAMLNode, inout Record, inout Decoding) -> Void)? = nil,
    finish: (@Sendable (inout Record, YAMLNode, inout Decoding) -> Void)? = nil,
    fields: [Field<Record>]
  ) {
    precondition(fields.count <= 64, "the fields given are kept in one word")
    shape = RecordShape(
      name: name, help: help, fields: fields.map(\.shape), choices: choices, takesDriverKeys: driverKey != nil)
    self.fields = fields
    self.initial = initial
    (self.driverKey, self.finish) = (driverKey, finish)
    positions = Dictionary(fields.indices.map { (fields[$0].name, $0) }, uniquingKeysWith: { a, _ in a })
  }

  /// - Returns: `nil` only for what is not a mapping; what is missing or broken in one was reported, and is left as it
  ///   initially is, so that everything else wrong with it is found in the same pass.
  func read(_ node: YAMLNode, _ decoding: inout Decoding) -> Record? {
    guard case .mapping(let members) = node.content else {
      decoding.wrongType(node, expected: "a mapping of \(shape.name)")
      return nil
    }
    var record = initial()
    var given: UInt64 = 0
    for member in members {
      if let position = positions[member.key] {
        given |= 1 << UInt64(position)
        if member.value.isNull, !fields[position].shape.isRequired { continue }
        fields[position].read(member.value, &record, &decoding)
      } else if let driverKey, let driver = DriverName(member.key), decoding.drivers[driver] != nil {
        driverKey(Located(driver, at: member.keyMark), member.value, &record, &decoding)
      } else {
        unknown(member, &decoding)
      }
    }
    for position in fields.indices where fields[position].shape.isRequired && given & (1 << UInt64(position)) == 0 {
      let field = fields[position]
      decoding.report(
        .missing, at: node.mark, "'\(field.name)' is missing in \(shape.name)",
        "add '\(field.name)': \(field.shape.help)")
    }
    for choice in shape.choices { check(choice, given: given, at: node.mark, &decoding) }
    finish?(&record, node, &decoding)
    return record
  }

  private func unknown(_ member: YAMLNode.Member, _ decoding: inout Decoding) {
    var known = fields.map(\.name)
    if driverKey != nil { known += decoding.drivers.keys.map(\.text).sorted() }
    let guess = nearest(member.key, in: known)
    decoding.report(
      .unknownField, at: member.keyMark, "\(shape.name) has no field '\(excerpt(member.key))'",
      guess.map { "did you mean '\($0)'?" } ?? "it has \(known.joined(separator: ", "))")
  }

  private func check(_ choice: RecordShape.Choice, given: UInt64, at mark: Mark, _ decoding: inout Decoding) {
    let present = choice.fields.filter { positions[$0].map { given & (1 << UInt64($0)) != 0 } ?? false }
    let list = choice.fields.joined(separator: ", ")
    if present.isEmpty, choice.isRequired {
      decoding.report(.missing, at: mark, "\(shape.name) needs one of \(list)", "add one of them")
    } else if present.count > 1 {
      decoding.report(
        .exclusive, at: mark, "\(shape.name) has \(present.joined(separator: " and ")), which exclude each other",
        "keep one of \(list)")
    }
  }

  var codec: Codec<Record> { Codec(.record(shape)) { node, decoding in read(node, &decoding) } }
}
