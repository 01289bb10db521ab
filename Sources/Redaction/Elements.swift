import Core
import DriverKit

extension Redactor {
  /// An array as PostgreSQL writes it, or JSON's.
  ///
  /// Source: PostgreSQL 15, section 8.15.6, "Array Input and Output Syntax".
  func elements(_ bytes: [UInt8], _ rule: ValueRule, _ place: String) throws(RedactionError) -> [UInt8] {
    if bytes.first == 91, let json = JSONText(bytes), case .array(let items) = json {
      return JSONText.array(
        try items.map { (item) throws(RedactionError) in
          guard case .string(let text) = item else { throw .notText(place: place, why: "an element is no text") }
          return .string(try changed(Array(text.utf8), rule, place))
        }
      ).written
    }
    guard bytes.first == 123, bytes.last == 125 else { throw .notText(place: place, why: "it is no array") }
    var result: [UInt8] = []
    var index = 0
    while index < bytes.count {
      switch bytes[index] {
      case 123, 125, 44:
        result.append(bytes[index])
        index += 1
      default:
        let (element, isQuoted, end) = try element(bytes, from: index, place)
        index = end
        if !isQuoted, String(decoding: element, as: UTF8.self).uppercased() == "NULL" {
          result += element
        } else {
          result.append(34)
          for byte in try changed(element, rule, place).utf8 {
            if byte == 34 || byte == 92 { result.append(92) }
            result.append(byte)
          }
          result.append(34)
        }
      }
    }
    return result
  }

  private func changed(_ element: [UInt8], _ rule: ValueRule, _ place: String) throws(RedactionError) -> String {
    switch try apply(rule, to: .text(String(decoding: element, as: UTF8.self)), place) {
    case .text(let text): return text
    case .null: return ""
    default: throw .notText(place: place, why: "an element became no text")
    }
  }

  private func element(
    _ bytes: [UInt8], from start: Int, _ place: String
  ) throws(RedactionError) -> (element: [UInt8], isQuoted: Bool, end: Int) {
    var element: [UInt8] = []
    var index = start
    if bytes[index] != 34 {
      while index < bytes.count, bytes[index] != 44, bytes[index] != 125 {
        element.append(bytes[index])
        index += 1
      }
      return (element, false, index)
    }
    index += 1
    while index < bytes.count, bytes[index] != 34 {
      if bytes[index] == 92 { index += 1 }
      guard index < bytes.count else { break }
      element.append(bytes[index])
      index += 1
    }
    guard index < bytes.count else { throw .notText(place: place, why: "it is no array") }
    return (element, true, index + 1)
  }

  /// CSV with a line of names.
  ///
  /// Source: RFC 4180.
  func csv(_ bytes: [UInt8], _ rules: [FieldRule], _ place: String) throws(RedactionError) -> [UInt8] {
    guard let records = CSVText.records(of: bytes) else { throw .notText(place: place, why: "it is no CSV") }
    guard let header = records.first else { return bytes }
    let names = header.map { String(decoding: $0, as: UTF8.self) }
    var columns: [ValueRule] = []
    for name in names {
      guard let rule = rules.first(where: { $0.path == [name] || $0.path.joined(separator: ".") == name }) else {
        throw .unnamed("column '\(name)' of \(place)")
      }
      columns.append(rule.rule)
    }
    var result = CSVText.written(header)
    for record in records.dropFirst() {
      guard record.count == columns.count else {
        throw .notText(place: place, why: "a line has \(record.count) fields, not \(columns.count)")
      }
      var fields: [[UInt8]] = []
      for (field, rule) in zip(record, columns) {
        switch try apply(rule, to: .text(String(decoding: field, as: UTF8.self)), place) {
        case .text(let text): fields.append(Array(text.utf8))
        default: fields.append([])
        }
      }
      result += CSVText.written(fields)
    }
    return result
  }
}

/// Comma-separated values.
///
/// Source: RFC 4180.
package enum CSVText {
  /// - Returns: `nil` for a quote that is not closed.
  package static func records(of bytes: [UInt8]) -> [[[UInt8]]]? {
    var records: [[[UInt8]]] = []
    var record: [[UInt8]] = []
    var field: [UInt8] = []
    var isQuoted = false
    var index = 0
    var isOpen = false
    while index < bytes.count {
      let byte = bytes[index]
      index += 1
      if isQuoted {
        if byte != 34 {
          field.append(byte)
        } else if index < bytes.count, bytes[index] == 34 {
          field.append(34)
          index += 1
        } else {
          isQuoted = false
        }
        continue
      }
      isOpen = true
      switch byte {
      case 34: isQuoted = true
      case 44:
        record.append(field)
        field = []
      case 10:
        record.append(field)
        records.append(record)
        (record, field, isOpen) = ([], [], false)
      case 13 where index < bytes.count && bytes[index] == 10: continue
      default: field.append(byte)
      }
    }
    if isQuoted { return nil }
    if isOpen { records.append(record + [field]) }
    return records
  }

  package static func written(_ record: [[UInt8]]) -> [UInt8] {
    var result: [UInt8] = []
    for (index, field) in record.enumerated() {
      if index > 0 { result.append(44) }
      if field.contains(where: { [34, 44, 10, 13].contains($0) }) {
        result.append(34)
        for byte in field { result += byte == 34 ? [34, 34] : [byte] }
        result.append(34)
      } else {
        result += field
      }
    }
    return result + [10]
  }
}
