import Core
import DriverKit

/// The shape of a system's data, and none of its values: what `salvor synthesize make` needs to make other data like it.
package struct SyntheticProfile: Sendable, Codable, Equatable {
  package static let format = "salvor.dev/synthetic/v1"

  /// A column's own values are those of another's, in another store.
  package struct Link: Sendable, Codable, Equatable {
    package var store: StoreName
    package var table: String
    package var column: String
    package var toStore: StoreName
    package var toTable: String
    package var toColumn: String

    package init(
      _ store: StoreName, _ table: String, _ column: String, to toStore: StoreName, _ toTable: String,
      _ toColumn: String
    ) {
      (self.store, self.table, self.column) = (store, table, column)
      (self.toStore, self.toTable, self.toColumn) = (toStore, toTable, toColumn)
    }
  }

  package struct Store: Sendable, Codable, Equatable {
    package var driver: DriverName
    package var tables: [Table]

    package init(driver: DriverName, tables: [Table]) { (self.driver, self.tables) = (driver, tables) }
  }

  package struct Table: Sendable, Codable, Equatable {
    package var shape: TableShape
    /// Rounded to two digits.
    package var rows: Int
    package var columns: [String: Column]
  }

  package struct Column: Sendable, Codable, Equatable {
    package enum Kind: String, Sendable, Codable {
      case integer, real, boolean, text, email, uuid, date, timestamp, json, array, bytes
    }

    package var kind: Kind
    /// In hundredths.
    package var nullPercent: Int
    /// Different values among all, in hundredths.
    package var distinctPercent: Int
    /// Eleven: the least, every tenth part, the most. Lengths of texts, in characters.
    package var lengths: [Int]
    /// The same of numbers, rounded to two digits; of dates, days since 1970 rounded to 30.
    package var numbers: [Double]
    /// `9`, `A` and `a` for a digit and letters, and the marks between, where nearly all values look so.
    package var pattern: String?
    /// Of a boolean: how many are true, in hundredths.
    package var truePercent: Int?
    /// Values with their parts, in hundredths; for columns somebody called public.
    package var categories: [String: Int]?
  }

  package var format = SyntheticProfile.format
  package var stores: [StoreName: Store]
  package var links: [Link]

  package init(stores: [StoreName: Store], links: [Link] = []) { (self.stores, self.links) = (stores, links) }
}

/// Learns what a table looks like, row by row, and forgets the rows.
package struct TableLearner {
  private let shape: TableShape
  private let isPublic: Set<String>
  private var rows = 0
  private var columns: [ColumnLearner]

  /// - Parameter isPublic: Columns whose values may stand in a profile.
  package init(_ shape: TableShape, isPublic: Set<String>) {
    (self.shape, self.isPublic) = (shape, isPublic)
    columns = shape.columns.filter { !$0.isGenerated }.map {
      ColumnLearner($0.type, isPublic: isPublic.contains($0.name))
    }
  }

  package mutating func take(_ values: [RowValue]) {
    rows += 1
    for index in columns.indices where index < values.count { columns[index].take(values[index]) }
  }

  package var profile: SyntheticProfile.Table {
    let names = shape.columns.filter { !$0.isGenerated }.map(\.name)
    return SyntheticProfile.Table(
      shape: shape, rows: Int(rounded(Double(rows))),
      columns: Dictionary(zip(names, columns.map(\.profile)), uniquingKeysWith: { first, _ in first }))
  }
}

/// To two digits.
func rounded(_ value: Double) -> Double {
  if value == 0 || !value.isFinite { return 0 }
  var scale = 1.0
  var rest = value.magnitude
  while rest >= 100 { (rest, scale) = (rest / 10, scale * 10) }
  while rest < 10 { (rest, scale) = (rest * 10, scale / 10) }
  let result = rest.rounded() * scale
  return value < 0 ? -result : result
}

struct ColumnLearner {
  /// So many values tell enough.
  static let sample = 20_000

  let type: String
  let isPublic: Bool
  private var count = 0
  private var nulls = 0
  private var trues = 0
  private var lengths: [Int] = []
  private var numbers: [Double] = []
  private var days: [Double] = []
  private var seen: Set<Int> = []
  private var looks: [String: Int] = [:]
  private var words: [String: Int] = [:]
  private var kinds: [SyntheticProfile.Column.Kind: Int] = [:]

  init(_ type: String, isPublic: Bool) { (self.type, self.isPublic) = (type.lowercased(), isPublic) }

  mutating func take(_ value: RowValue) {
    count += 1
    if count > Self.sample { return }
    switch value {
    case .null: nulls += 1
    case .integer(let number): note(.integer, String(number), number: Double(number))
    case .real(let number): note(.real, "\(number)", number: number)
    case .bytes(let bytes): note(.bytes, Hex.encode(bytes.prefix(64)), length: bytes.count)
    case .text(let text): take(text)
    }
  }

  private mutating func take(_ text: String) {
    if type.hasPrefix("bool") {
      if text.hasPrefix("t") { trues += 1 }
      note(.boolean, text)
    } else if type.hasSuffix("[]") {
      note(.array, text)
    } else if type.hasPrefix("json") {
      note(.json, text)
    } else if type == "uuid" {
      note(.uuid, text)
    } else if type.contains("int") || type.contains("numeric") || type.contains("double") || type.contains("real"),
      let number = Double(text)
    {
      note(type.contains("int") ? .integer : .real, text, number: number)
    } else if let day = Self.day(text) {
      days.append(Double(day))
      note(text.utf8.count > 10 ? .timestamp : .date, text)
    } else {
      let parts = text.split(separator: "@", omittingEmptySubsequences: false)
      note(parts.count == 2 && parts[1].contains(".") && !text.contains(" ") ? .email : .text, text)
    }
  }

  private mutating func note(
    _ kind: SyntheticProfile.Column.Kind, _ text: String, number: Double? = nil, length: Int? = nil
  ) {
    kinds[kind, default: 0] += 1
    seen.insert(text.hashValue)
    lengths.append(length ?? text.count)
    if let number { numbers.append(number) }
    if kind == .text, text.utf8.count <= 40 {
      let look = Self.look(text)
      if looks.count < 100 || looks[look] != nil { looks[look, default: 0] += 1 }
    }
    if isPublic, words.count < 200 || words[text] != nil { words[text, default: 0] += 1 }
  }

  static func day(_ text: String) -> Int? {
    guard text.utf8.count >= 10, let time = Timestamp(String(text.prefix(10)) + "T00:00:00Z") else { return nil }
    return Int(time.nanoseconds / 86_400_000_000_000)
  }

  static func look(_ text: String) -> String {
    String(
      text.map {
        $0.isNumber ? "9" : $0.isUppercase ? "A" : $0.isLetter ? "a" : $0.isASCII && $0.isPunctuation ? $0 : " "
      })
  }

  private static func quantiles<T: Comparable>(_ values: [T]) -> [T] {
    let sorted = values.sorted()
    guard !sorted.isEmpty else { return [] }
    return (0...10).map { sorted[min(sorted.count - 1, $0 * (sorted.count - 1) / 10)] }
  }

  var profile: SyntheticProfile.Column {
    let sampled = min(count, Self.sample)
    let there = sampled - nulls
    // Names before counts: the same profile whatever the dictionary's order.
    let kind =
      kinds.sorted { $0.value != $1.value ? $0.value > $1.value : $0.key.rawValue < $1.key.rawValue }.first?.key
      ?? .text
    func percent(_ part: Int, of whole: Int) -> Int {
      whole == 0 ? 0 : Int((Double(part) * 100 / Double(whole)).rounded())
    }
    let isDate = kind == .date || kind == .timestamp
    let numbers = isDate ? Self.quantiles(days).map { ($0 / 30).rounded() * 30 } : Self.quantiles(numbers).map(rounded)
    let look = looks.max { $0.value != $1.value ? $0.value < $1.value : $0.key > $1.key }
    // A look of few values would say what they are.
    let pattern = look.flatMap { $0.value * 100 >= there * 90 && there >= 5 && seen.count >= 5 ? $0.key : nil }
    var column = SyntheticProfile.Column(
      kind: kind, nullPercent: percent(nulls, of: sampled), distinctPercent: percent(seen.count, of: there),
      lengths: Self.quantiles(lengths), numbers: numbers, pattern: pattern)
    if kind == .boolean { column.truePercent = percent(trues, of: there) }
    if isPublic { column.categories = words.mapValues { max(1, percent($0, of: there)) } }
    return column
  }
}
