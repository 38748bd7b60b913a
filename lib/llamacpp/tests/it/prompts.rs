//! Twenty prompts of every kind that users send: prose, code, lists, markup, many scripts. From a
//! few tokens to just below two hundred, in no order of length: neighbours differ as requests do.

/// The longest that a prompt is, in tokens.
pub(crate) const LONGEST: usize = 200;

pub(crate) const PROMPTS: [&str; 20] = [
    // --- short ---
    "The capital of France is",
    "def fibonacci(n):\n    ",
    "1, 1, 2, 3, 5, 8,",
    "Die Hauptstadt von Österreich heißt",
    "🍎 red, 🍌 yellow, 🍇 purple, 🥦",
    "Dear Sir or Madam,\n\nI am writing to complain about the state of the",
    // --- a few dozen tokens ---
    "SELECT c.name, COUNT(o.id) AS orders, SUM(o.total) AS spent\n\
     FROM customers AS c\n\
     LEFT JOIN orders AS o ON o.customer_id = c.id\n\
     WHERE c.country = 'PT' AND o.placed_at >= '2024-01-01'\n\
     GROUP BY",
    "Shopping list for the week:\n\
     - 2 kg of potatoes\n\
     - 6 eggs\n\
     - 1 loaf of rye bread\n\
     - 250 g of butter\n\
     - tomatoes, onions, garlic\n\
     - olive oil\n\
     - washing powder\n\
     -",
    "日本の四季について説明します。春には桜が咲き、夏は蒸し暑く、秋には紅葉が美しく、冬には北の地方で\
     たくさんの雪が降ります。その中で一番人気がある季節は",
    "Вчера вечером мы с друзьями пошли в театр. Спектакль начался в семь часов, и зал был полон. \
     Главную роль играл молодой актёр, которого раньше никто не знал. После первого акта \
     публика долго аплодировала, а критики молча переглядывались и что-то быстро записывали в",
    "It was the best of times, it was the worst of times, it was the age of wisdom, it was the age \
     of foolishness, it was the epoch of belief, it was the epoch of incredulity, it was the season \
     of Light, it was the season of Darkness, it was the spring of hope, it was the",
    // --- about a hundred tokens and more ---
    "use std::collections::BTreeMap;\n\n\
     /// Counts how often each word occurs.\n\
     pub fn count_words(text: &str) -> BTreeMap<String, usize> {\n    \
         let mut counts = BTreeMap::new();\n    \
         for word in text.split_whitespace() {\n        \
             let word = word.trim_matches(|c: char| !c.is_alphanumeric());\n        \
             if word.is_empty() {\n            \
                 continue;\n        \
             }\n        \
             *counts.entry(word.to_lowercase()).or_insert(0) += 1;\n    \
         }\n    \
         counts\n\
     }\n\n\
     #[test]\n\
     fn words_are_counted() {\n    ",
    "人工智能正在改变我们的生活。从语音助手到自动驾驶，从医疗诊断到金融风控，越来越多的行业开始使用\
     机器学习技术。然而，这些技术也带来了新的问题：数据隐私如何保护？算法是否公平？当机器做出错误的\
     决定时，谁应该承担责任？专家们认为，我们需要在创新与监管之间找到平衡。一方面，政府应该鼓励企业\
     投资研发；另一方面，必须制定明确的规则，以保障公众的利益。在教育领域，老师们也在思考",
    "यह कहानी एक छोटे से गाँव की है, जहाँ एक बूढ़ा किसान अपनी पत्नी और दो बेटों के साथ रहता था। हर सुबह वह सूरज \
     निकलने से पहले उठता, बैलों को चारा देता और खेत की ओर चल पड़ता। एक दिन उसने देखा कि खेत के बीच में",
    "{\n  \"name\": \"billing\",\n  \"version\": \"2.4.1\",\n  \"replicas\": 3,\n  \"ports\": [8080, 8443],\n  \
     \"env\": {\n    \"LOG_LEVEL\": \"info\",\n    \"DATABASE_URL\": \"postgres://db:5432/billing\",\n    \
     \"CACHE_TTL\": \"300s\"\n  },\n  \"resources\": {\n    \"cpu\": \"500m\",\n    \"memory\": \"256Mi\"\n  },\n  \
     \"routes\": [\n    { \"path\": \"/invoices\", \"method\": \"GET\", \"auth\": true },\n    \
     { \"path\": \"/invoices\", \"method\": \"POST\", \"auth\": true },\n    { \"path\": \"/health\",",
    "In mathematics, a prime number is a natural number greater than one that has no positive \
     divisors other than one and itself. The first ten prime numbers are two, three, five, seven, \
     eleven, thirteen, seventeen, nineteen, twenty-three and twenty-nine. The sum of the first \
     ten prime numbers is one hundred and twenty-nine. It was known to the ancient Greeks that \
     there are infinitely many of them; the proof goes like this. Suppose that there were only",
    // --- up to two hundred ---
    "The history of the steam engine begins long before James Watt. Thomas Savery, Thomas \
     Newcomen and Denis Papin each built machines that turned heat into motion, and each of them \
     found out how hard it was to make a cylinder round enough. The mines of Cornwall were deep \
     and wet, coal was dear, and whoever could raise water with less of it grew rich. What Watt \
     added was a separate condenser, and a partner who knew how to sell. From then on the engine \
     spread from the pits to the mills, from the mills to the rivers, and from the rivers to the \
     rails. Towns that had been villages for a thousand years doubled within a decade; fields \
     became streets, and streets were lit by gas. The weavers who had worked at home now walked to \
     the factory before dawn, and came back after dark. Nobody had asked them, and nobody had asked \
     the owners either: whoever did not build a larger mill was bought by a",
    "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n  <meta charset=\"utf-8\">\n  \
     <title>Opening hours</title>\n  <style>\n    table { border-collapse: collapse; }\n    \
     td, th { padding: 4px 8px; border: 1px solid #ccc; }\n  </style>\n</head>\n<body>\n  \
     <h1>Opening hours</h1>\n  <table>\n    <tr><th>Day</th><th>From</th><th>To</th></tr>\n    \
     <tr><td>Monday</td><td>09:00</td><td>18:00</td></tr>\n    \
     <tr><td>Tuesday</td><td>09:00</td><td>18:00</td></tr>\n    \
     <tr><td>Wednesday</td>",
    "Minutes of the meeting of 12 March\n\n\
     1. Present: Ana, Björn, Chidi, Dörte, Émile\n\
     2. The minutes of the last meeting were approved without changes.\n\
     3. Budget: costs were 4.2 % above plan, mostly for travel; Ana proposes to hold two of the four \
     workshops online.\n\
     4. Hiring: three candidates were seen; offers go to two of them this week.\n\
     5. Office: the heating on the second floor is still broken. Björn calls the landlord.\n\
     6. Roadmap: the release moves from April to May; translations (日本語, العربية, עברית, ελληνικά) \
     are to be ready two weeks before.\n\
     7. Any other business: Chidi reminds everybody of the fire drill on Thursday at 10:30.\n\
     8.",
    "ولد العالم في مدينة صغيرة على ضفاف النهر، وتعلم القراءة والكتابة على يد والده. عندما بلغ \
     الخامسة عشرة من عمره سافر إلى العاصمة ليدرس الطب والفلسفة والرياضيات. كتب أكثر من مئة كتاب، \
     وترجمت أعماله إلى لغات كثيرة، وظلت تدرس في الجامعات قرونا طويلة. وكان يقول لتلاميذه إن العلم لا \
     ينتهي، وإن من يظن أنه بلغ آخره لم يبدأ بعد. ومن أشهر أقواله أن",
];
