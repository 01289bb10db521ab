import Core
import DriverKit

/// Makes data of a profile's shape. Pure: profile, seed and scale give the same rows, on every machine.
package struct Synthesizer: Sendable {
  package struct Made: Sendable {
    package var store: StoreName
    package var table: TableShape
    package var rows: [[RowValue]]
  }

  private let profile: SyntheticProfile
  private let seed: UInt64
  private let scale: Double

  package init(_ profile: SyntheticProfile, seed: UInt64, scale: Double) throws(SyntheticError) {
    guard profile.format == SyntheticProfile.format else {
      throw .badProfile("its format is not \(SyntheticProfile.format)")
    }
    (self.profile, self.seed, self.scale) = (profile, seed, scale)
  }

  private struct Place: Hashable, Comparable {
    var store: StoreName
    var table: String
    static func < (a: Place, b: Place) -> Bool { a.store != b.store ? a.store < b.store : a.table < b.table }
  }

  /// What one column's value is taken from.
  private struct Source {
    var place: Place
    var column: String
  }

  /// - Returns: Tables, those first that others refer to.
  package func make() throws(SyntheticError) -> [Made] {
    var tables: [Place: SyntheticProfile.Table] = [:]
    for (store, one) in profile.stores {
      for table in one.tables { tables[Place(store: store, table: table.shape.name)] = table }
    }
    var made: [Place: Made] = [:]
    var result: [Made] = []
    var left = tables.keys.sorted()
    while !left.isEmpty {
      let ready = left.filter { place in
        sources(of: place, tables).values.allSatisfy {
          $0.place == place || made[$0.place] != nil || tables[$0.place] == nil
        }
      }
      guard !ready.isEmpty else { throw .cycle(left.map(\.table)) }
      for place in ready {
        guard let table = tables[place] else { continue }
        let one = try make(table, at: place, sources(of: place, tables), made)
        made[place] = one
        result.append(one)
      }
      left.removeAll { made[$0] != nil }
    }
    return result
  }

  private func sources(of place: Place, _ tables: [Place: SyntheticProfile.Table]) -> [String: Source] {
    var sources: [String: Source] = [:]
    for link in profile.links where link.store == place.store && link.table == place.table {
      sources[link.column] = Source(place: Place(store: link.toStore, table: link.toTable), column: link.toColumn)
    }
    // The engine itself checks these, so that they prevail.
    for reference in tables[place]?.shape.references ?? [] {
      for (column, target) in zip(reference.columns, reference.targets) {
        sources[column] = Source(place: Place(store: place.store, table: reference.table), column: target)
      }
    }
    return sources
  }

  private func make(
    _ table: SyntheticProfile.Table, at place: Place, _ sources: [String: Source], _ made: [Place: Made]
  ) throws(SyntheticError) -> Made {
    let columns = table.shape.columns.filter { !$0.isGenerated }
    let count = max(table.rows == 0 ? 0 : 1, Int((Double(table.rows) * scale).rounded()))
    var rows = [[RowValue]](repeating: [], count: count)
    for column in columns {
      guard let profile = table.columns[column.name] else {
        throw .badProfile("column \(column.name) of \(place.table) is missing")
      }
      let values = SyntheticValues(
        profile, column.type, Digest.of("\(seed)\n\(place.store)\n\(place.table)\n\(column.name)").leadingWord)
      let key = table.shape.keys.first { $0.contains(column.name) }
      let targets = sources[column.name].flatMap { source in target(source, made) }
      // Of a key of several columns, one that refers to nothing is enough to tell rows apart.
      if let key, targets != nil || key.last(where: { sources[$0] == nil }) == column.name {
        try fill(&rows, column, values, key, targets, table.shape, sources, made)
      } else {
        for row in rows.indices {
          rows[row].append(value(row, column, values, targets, isSelf: sources[column.name]?.place == place))
        }
      }
    }
    return Made(store: place.store, table: table.shape, rows: rows)
  }

  private func target(_ source: Source, _ made: [Place: Made]) -> [RowValue]? {
    guard let other = made[source.place],
      let index = other.table.columns.filter({ !$0.isGenerated }).firstIndex(where: { $0.name == source.column })
    else { return nil }
    return other.rows.map { $0[index] }
  }

  private func value(
    _ row: Int, _ column: TableShape.Column, _ values: SyntheticValues, _ targets: [RowValue]?, isSelf: Bool
  ) -> RowValue {
    // What refers to its own table, or to nothing that was made, stays open.
    if column.isNullable, isSelf || targets?.isEmpty == true || values.isNull(row) { return .null }
    if let targets, !targets.isEmpty { return targets[Int(values.word(row, 1) % UInt64(targets.count))] }
    return values.value(row)
  }

  /// A column of a key: each row its own, or its own combination.
  private func fill(
    _ rows: inout [[RowValue]], _ column: TableShape.Column, _ values: SyntheticValues, _ key: [String],
    _ targets: [RowValue]?,
    _ shape: TableShape, _ sources: [String: Source], _ made: [Place: Made]
  ) throws(SyntheticError) {
    guard let targets else {
      for row in rows.indices { rows[row].append(values.unique(row)) }
      return
    }
    var step = 1
    for name in key {
      if name == column.name { break }
      step *= max(1, sources[name].flatMap { target($0, made) }?.count ?? 1)
    }
    let (possible, overflow) = step.multipliedReportingOverflow(by: targets.count)
    let isLast = key.last == column.name && key.allSatisfy { sources[$0] != nil }
    if isLast, !overflow, rows.count > possible { throw .tooMany(shape.name, rows: rows.count, possible: possible) }
    for row in rows.indices { rows[row].append(targets.isEmpty ? .null : targets[row / step % targets.count]) }
  }
}

/// Values of one column, each by its row's number alone.
struct SyntheticValues {
  let profile: SyntheticProfile.Column
  let type: String
  let seed: UInt64

  init(_ profile: SyntheticProfile.Column, _ type: String, _ seed: UInt64) {
    (self.profile, self.type, self.seed) = (profile, type.lowercased(), seed)
  }

  /// Source: SplitMix64, as in ``Core/SeededRandomness``.
  func word(_ row: Int, _ number: UInt64) -> UInt64 {
    var z = seed &+ (UInt64(row) &* 64 &+ number &+ 1) &* 0x9e37_79b9_7f4a_7c15
    z = (z ^ (z >> 30)) &* 0xbf58_476d_1ce4_e5b9
    z = (z ^ (z >> 27)) &* 0x94d0_49bb_1331_11eb
    return z ^ (z >> 31)
  }

  func isNull(_ row: Int) -> Bool { word(row, 0) % 100 < UInt64(profile.nullPercent) }

  /// Between two of eleven quantiles.
  private func drawn(_ quantiles: [Double], _ row: Int, _ number: UInt64) -> Double {
    guard quantiles.count == 11 else { return quantiles.first ?? 0 }
    let draw = word(row, number)
    let part = Int(draw % 10)
    let (low, high) = (quantiles[part], quantiles[part + 1])
    return low + (high - low) * Double((draw >> 8) % 10_001) / 10_000
  }

  func value(_ row: Int) -> RowValue {
    if let categories = profile.categories, !categories.isEmpty {
      var draw = Int(word(row, 2) % UInt64(categories.values.reduce(0, +)))
      for (text, part) in categories.sorted(by: { $0.key < $1.key }) {
        draw -= part
        if draw < 0 { return profile.kind == .integer ? Int64(text).map { .integer($0) } ?? .text(text) : .text(text) }
      }
    }
    switch profile.kind {
    case .integer: return .integer(Int64(max(-9e15, min(9e15, drawn(profile.numbers, row, 2).rounded()))))
    case .real: return .real((drawn(profile.numbers, row, 2) * 100).rounded() / 100)
    case .boolean: return .text(word(row, 2) % 100 < UInt64(profile.truePercent ?? 50) ? "t" : "f")
    case .date, .timestamp: return .text(time(row))
    case .uuid: return .text(uuid(row))
    case .json, .array: return .text("{}")
    case .bytes:
      return .bytes(
        (0..<min(64, length(row))).map {
          UInt8(truncatingIfNeeded: word(row, 3 + UInt64($0 % 60)) >> UInt64($0 % 8 * 8))
        })
    case .email: return .text("\(letters(row, max(3, length(row) - 12)))@example.com")
    case .text: return .text(text(row))
    }
  }

  /// No two rows have the same.
  func unique(_ row: Int) -> RowValue {
    switch profile.kind {
    case .integer, .real:
      return type.contains("text") || type.contains("char") ? .text(String(row + 1)) : .integer(Int64(row + 1))
    case .uuid: return .text(uuid(row))
    case .date, .timestamp: return .text(Self.written(day: row))
    default:
      if let pattern = profile.pattern, let text = Self.numbered(pattern, row) { return .text(text) }
      let number = String(row + 1, radix: 36)
      return .text(
        profile.kind == .email
          ? "\(letters(row, 3))\(number)@example.com"
          : "\(letters(row, max(1, min(8, length(row) - number.count))))-\(number)")
    }
  }

  /// The row's number in the pattern's own places.
  static func numbered(_ pattern: String, _ row: Int) -> String? {
    var result: [Character] = []
    var rest = row
    for character in pattern.reversed() {
      switch character {
      case "9": result.append(Character("\(rest % 10)")); rest /= 10
      case "A": result.append(Character(Unicode.Scalar(UInt8(65 + rest % 26)))); rest /= 26
      case "a": result.append(Character(Unicode.Scalar(UInt8(97 + rest % 26)))); rest /= 26
      default: result.append(character)
      }
    }
    return rest == 0 ? String(result.reversed()) : nil
  }

  private func length(_ row: Int) -> Int {
    max(0, min(100_000, Int(drawn(profile.lengths.map(Double.init), row, 3).rounded())))
  }

  private func text(_ row: Int) -> String {
    if let pattern = profile.pattern {
      return String(
        pattern.enumerated().map { index, character in
          let draw = word(row, 4 + UInt64(index % 59))
          switch character {
          case "9": return Character("\(draw % 10)")
          case "A": return Character(Unicode.Scalar(UInt8(65 + draw % 26)))
          case "a": return Character(Unicode.Scalar(UInt8(97 + draw % 26)))
          default: return character
          }
        })
    }
    return letters(row, length(row))
  }

  /// Words of syllables.
  private func letters(_ row: Int, _ count: Int) -> String {
    let (consonants, vowels) = (Array("bdfgklmnprstvz".utf8), Array("aeiou".utf8))
    var result: [UInt8] = []
    let generator = SeededRandomness(seed: word(row, 63))
    while result.count < count {
      let draw = generator.next()
      if result.count % 8 == 7 {
        result.append(32)
      } else {
        result.append(result.count % 2 == 0 ? consonants[Int(draw % 14)] : vowels[Int(draw % 5)])
      }
    }
    return String(decoding: result, as: UTF8.self)
  }

  private func uuid(_ row: Int) -> String {
    func hex(_ word: UInt64) -> String {
      String(repeating: "0", count: 16 - String(word, radix: 16).count) + String(word, radix: 16)
    }
    let high = word(row, 4) & 0xffff_ffff_ffff_0fff | 0x4000
    let low = word(row, 5) & 0x3fff_ffff_ffff_ffff | 0x8000_0000_0000_0000
    let digits = Array(hex(high) + hex(low))
    return [0..<8, 8..<12, 12..<16, 16..<20, 20..<32].map { String(digits[$0]) }.joined(separator: "-")
  }

  private static func written(day: Int) -> String {
    Timestamp(nanoseconds: Int64(day) * 86_400_000_000_000).format(fractionDigits: 0).prefix(10).description
  }

  private func time(_ row: Int) -> String {
    let day = Self.written(day: Int(drawn(profile.numbers, row, 2)))
    if profile.kind == .date { return day }
    let second = Int(word(row, 5) % 86_400)
    func two(_ number: Int) -> String { number < 10 ? "0\(number)" : "\(number)" }
    return "\(day) \(two(second / 3600)):\(two(second / 60 % 60)):\(two(second % 60))+00"
  }
}
