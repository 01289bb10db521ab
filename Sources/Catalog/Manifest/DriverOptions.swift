import Core

extension Decoding {
  /// A store's options, checked against what its driver understands. Defaults are left to the driver.
  mutating func options(
    _ node: YAMLNode?, of driver: Located<DriverName>, schema: [OptionSchema]
  ) -> [String: JSONValue] {
    var members: [YAMLNode.Member] = []
    if let node, !node.isNull {
      guard case .mapping(let given) = node.content else {
        wrongType(node, expected: "a mapping of options")
        return [:]
      }
      members = given
    }
    var result: [String: JSONValue] = [:]
    for member in members {
      guard let option = schema.first(where: { $0.name == member.key }) else {
        let guess = nearest(member.key, in: schema.map(\.name)).map { "did you mean '\($0)'?" }
        report(
          .badOption, at: member.keyMark, "driver \(driver.value) has no option '\(excerpt(member.key))'",
          guess ?? "it has \(schema.map(\.name).joined(separator: ", "))")
        continue
      }
      if let value = option.kind.read(member.value, &self) { result[option.name] = value }
    }
    for option in schema where option.isRequired && !members.contains(where: { $0.key == option.name }) {
      report(
        .badOption, at: node?.mark ?? driver.mark, "driver \(driver.value) requires option '\(option.name)'",
        "add '\(option.name)': \(option.help)")
    }
    return result
  }
}

extension OptionSchema.Kind {
  var shape: Shape {
    switch self {
    case .string: Codec<String>.scalar.shape
    case .integer: .integer(.min ... .max)
    case .boolean: .boolean
    case .duration: .duration
    case .path: Codec<String>.path.shape
    case .secret: .secret
    case .strings: .list(Codec<String>.scalar.shape)
    }
  }

  func read(_ node: YAMLNode, _ decoding: inout Decoding) -> JSONValue? {
    switch self {
    case .string: Codec<String>.scalar.read(node, &decoding).map { .string($0) }
    case .integer: Codec<Int>.integer(.min ... .max).read(node, &decoding).map { .integer(Int64($0)) }
    case .boolean: Codec<Bool>.boolean.read(node, &decoding).map { .bool($0) }
    case .duration: Codec<Duration>.duration.read(node, &decoding).map { .string($0.exactText) }
    case .path: Codec<String>.path.read(node, &decoding).map { .string($0) }
    case .secret: Codec<SecretReference>.secret.read(node, &decoding).map { .string($0.description) }
    case .strings: Codec<String>.scalar.list.read(node, &decoding).map { .array($0.map { .string($0) }) }
    }
  }
}
