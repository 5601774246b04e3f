"""What generated dialogues are about: facts, how people tell them, and how others ask for them in words of their own.

In templates: {v} is the fact's value, {o} the one it had before, {p} another person, {w} when it was, {me} and {you} the speakers' names. A
tuple of two lines is a question by the other speaker and an answer that is not understood without it.
"""

from typing import NamedTuple

Line = str | tuple[str, str]


class Relation(NamedTuple):
    """A kind of fact."""

    values: tuple[str, ...]
    told: tuple[Line, ...]
    asked: tuple[str, ...]
    """{s} is who told it."""
    about_others: tuple[str, ...] = ()
    """The same of third persons: what a question must not be answered with."""
    changed: tuple[str, ...] = ()
    asked_now: tuple[str, ...] = ()
    asked_before: tuple[str, ...] = ()
    when: tuple[str, ...] = ()
    open: tuple[str, ...] = ()
    several: tuple[str, ...] = ()
    """Questions that need every fact of this kind that the speaker told."""


RELATIONS = (
    Relation(
        ("a greyhound", "two kittens", "a tortoise", "a cockatiel", "a beagle", "an old tabby", "a ferret", "a border collie"),
        (
            "We brought {v} home from the shelter {w}.",
            ("Any news at your place?", "Yes! {v}, and the couch is not ours any more."),
            "The house is louder since {v} moved in {w}.",
        ),
        ("What kind of pet does {s} have?", "Which animal did {s} adopt?", "What animal came to {s} from the shelter?"),
        ("{p} has {v} now, poor neighbours.", "You should see {p} walking with {v}."),
        when=("When did the animal come into {s}'s home?",),
        open=("Would {s} need somebody to feed an animal during a holiday?",),
    ),
    Relation(
        ("Porto", "Ghent", "Tampere", "Graz", "Leeds", "Bergamo", "Utrecht", "Malmö", "Vilnius", "Trieste"),
        (
            "I signed the lease, from next month my address is in {v}.",
            ("Where will all the boxes go?", "To {v}, third floor, no lift."),
            "The keys to the flat in {v} came {w}!",
        ),
        ("Which city did {s} relocate to?", "Where does {s} live?", "Where is the flat whose keys {s} got?"),
        ("{p} left for {v}, by the way.", "We visited {p} in {v}, lovely old town."),
        ("Change of plan, {o} fell through and it is going to be {v} instead.", "I have left {o} behind, {v} is home since {w}."),
        ("In which town does {s} live these days?",),
        ("Where did {s} want to live at first?",),
        ("When did {s} get the new flat?",),
    ),
    Relation(
        ("a bakery", "the harbour office", "a law firm", "the tram company", "a hospice", "an insurance broker", "a print shop", "the zoo"),
        (
            "My first day at {v} was {w}, everyone is kind.",
            ("And, did they take you?", "They did, {v} wants me from Monday on!"),
            "{v} made me an offer and I said yes on the spot.",
        ),
        ("Who employs {s}?", "What is {s}'s workplace?", "Who made {s} an offer?"),
        ("{p} got hired by {v}.", "Did you hear that {p} quit {v}?"),
        ("I gave notice at {o}; {v} pays better and lets me sleep.", "Goodbye {o}, hello {v}, since {w}."),
        ("What is {s}'s present job?",),
        ("What was {s}'s job before the present one?",),
        ("When did {s} begin the job?",),
        ("Might {s} be busy on weekday mornings?",),
    ),
    Relation(
        ("peanuts", "shellfish", "kiwis", "penicillin", "birch pollen", "latex", "sesame", "wasp stings"),
        (
            "The doctor was clear, {v} can send me to hospital.",
            ("Why did you turn that down?", "Because of {v}. My throat closes within minutes."),
            "I had a bad reaction to {v} {w}, so from now on I carry a pen.",
        ),
        ("What is {s} allergic to?", "What must {s} avoid for health reasons?", "What gave {s} a bad reaction?"),
        ("{p} swells up from {v}.",),
        open=("What should a cook know before inviting {s}?",),
        when=("When did {s} have an allergic reaction?",),
    ),
    Relation(
        ("the oboe", "a hurdy-gurdy", "the cello", "bass guitar", "the accordion", "a theremin", "the harp", "bagpipes"),
        (
            "Every evening I practise {v} for half an hour, the neighbours are patient.",
            ("Is that noise you?", "Sorry, yes, {v}. Third lesson."),
            "I rented {v} {w} and my fingers hurt already.",
        ),
        ("Which instrument is {s} learning?", "What does {s} play?", "What did {s} rent to practise on?"),
        ("{p} performed with {v} at the town fair.",),
        when=("When did {s} take up music?",),
        open=("Would {s} like a voucher for sheet music?",),
    ),
    Relation(
        ("Matteo", "Ingrid", "Kofi", "Yuki", "Pilar", "Bogdan", "Aoife", "Thabo"),
        (
            "{v} and I grew up in the same street, we still talk every Sunday.",
            ("Who was that on the phone?", "{v}. We have known each other since first grade."),
            "I could cry, {v} flew in just for my party {w}.",
        ),
        (
            "What is the name of {s}'s oldest friend?",
            "Who has been close to {s} since childhood?",
            "Who grew up in the same street as {s}?",
        ),
        ("{p} is {v}'s cousin, small world.",),
        when=("When did the childhood friend visit {s}?",),
    ),
    Relation(
        ("a sourdough course", "free diving", "beekeeping", "fencing", "pottery", "life drawing", "improv theatre", "bouldering"),
        (
            "I signed up for {v}, starting {w}.",
            ("What are you up to on Thursdays?", "{v}! My hands are a mess and I love it."),
            "Believe it or not, {v} is what keeps me sane these months.",
        ),
        ("What hobby did {s} pick up?", "Which class does {s} attend?", "What did {s} sign up for?"),
        ("{p} talks of nothing but {v}.",),
        when=("When did {s} begin the hobby?",),
        several=("Which activities has {s} tried?",),
    ),
    Relation(
        (
            "a bread knife",
            "an espresso machine",
            "cast-iron pans",
            "a pasta roller",
            "a copper kettle",
            "a mandoline",
            "a rice cooker",
            "a smoker",
        ),
        (
            "I could not resist and took {v} home {w}.",
            ("What is in the parcel?", "{v}, half price, do not tell anyone."),
            "My wallet is empty but {v} stands on the counter now.",
        ),
        ("What did {s} buy for cooking?", "Which kitchen thing did {s} get?", "What was in the parcel that {s} took home?"),
        ("{p} lent me {v}.",),
        several=("What things for the kitchen has {s} acquired?", "What has {s} spent money on for cooking?"),
        when=("When did {s} do the shopping for the kitchen?",),
    ),
    Relation(
        ("1,400 euros", "620 euros", "85 euros", "2,050 euros", "310 euros", "4,900 euros", "149 euros", "760 euros"),
        (
            "The mechanic wants {v} for the brakes, I nearly fainted.",
            ("How bad was it in the garage?", "{v}. And they only looked at the brakes."),
            "{w} I paid {v} so that the car stops when I want it to.",
        ),
        (
            "How much did {s} pay to have the car repaired?",
            "What did the repair cost {s}?",
            "What did {s} pay the mechanic for the brakes?",
        ),
        ("{p} spent {v} on a bicycle.",),
        when=("When was {s}'s car in the garage?",),
    ),
    Relation(
        ("Lake Ohrid", "the Faroe Islands", "Sardinia", "the Harz", "Svalbard", "Crete", "the Dolomites", "Madeira"),
        (
            "{v} it is! Tickets for {w} are in my inbox.",
            ("So, sea or mountains?", "{v}, ten days, no laptop."),
            "We just came back from {v}, I am still sunburnt.",
        ),
        ("Where did {s} go on holiday?", "What was the destination of {s}'s trip?", "Where did {s} come back from, sunburnt?"),
        ("{p} sends greetings from {v}.",),
        ("We cancelled {o} because of the strike and booked {v}.", "{o} was full, so {v} for us, {w}."),
        ("Where is {s} travelling after the change of plans?",),
        ("Which trip did {s} cancel?",),
        ("When is {s} away?",),
        several=("Which places has {s} travelled to?",),
    ),
    Relation(
        ("migraines", "a slipped disc", "low iron", "tinnitus", "a torn ligament", "high blood pressure", "insomnia", "a frozen shoulder"),
        (
            "They finally gave it a name: {v}.",
            ("What did the doctor say?", "{v}. Nothing dramatic, but I have to take it seriously."),
            "Because of {v} I have been lying in a dark room since {w}.",
        ),
        ("What health problem does {s} have?", "What is {s} being treated for?", "What did the doctor tell {s}?"),
        ("{p} has {v}, too.",),
        open=("Would {s} be up for a long, loud concert?",),
        when=("When did the illness keep {s} at home?",),
    ),
    Relation(
        ("a marine biologist", "a notary", "a stage designer", "a paramedic", "a carpenter", "a translator", "a judge", "a pilot"),
        (
            "My mother was {v}, so dinner talk was never boring.",
            ("Where do you get that from?", "From my mother. She was {v} for thirty years."),
            "Funny, I wanted to become {v} like my mother until I was ten.",
        ),
        (
            "What did {s}'s mother do for a living?",
            "What profession did {s}'s parent have?",
            "What did {s} want to become, like the mother?",
        ),
        ("{p} is training to be {v}.",),
    ),
    Relation(
        ("Dune", "Middlemarch", "The Leopard", "Beloved", "Solaris", "Stoner", "Ficciones", "Rebecca"),
        (
            "I finished {v} in two nights.",
            ("What are you reading?", "{v}, for the third time. It gets better."),
            "{v} made me miss my stop {w}.",
        ),
        ("What book did {s} enjoy?", "Which novel does {s} love?", "What is {s} reading at night?"),
        ("{p} could not get through {v}.",),
        several=("Which books has {s} read?",),
        when=("When did {s} read so much as to forget everything else?",),
    ),
    Relation(
        ("twins", "a little girl", "a boy called Emil", "their third", "a girl named Noor", "a son"),
        (
            "My sister called at four in the morning: {v}!",
            ("Why are you so happy?", "I am an aunt! {v}, everybody is well."),
            "{w} the family grew, my sister has {v}.",
        ),
        ("Who was born in {s}'s family?", "What baby news did {s} share?", "What did {s}'s sister call about?"),
        ("{p} is expecting {v}.",),
        when=("When was the baby in {s}'s family born?",),
    ),
    Relation(
        ("Friday at noon", "the 3rd of June", "the end of March", "Tuesday at nine", "the 21st", "Monday in two weeks"),
        (
            "We agreed with the client on {v}, not a day later.",
            ("How long do you have?", "Until {v}. Then it must be in print."),
            "The board decided {v} is final.",
        ),
        ("What is the deadline of {s}'s project?", "By when must {s} deliver?", "What did {s} agree on with the client?"),
        ("{p} hands in the thesis on {v}.",),
        ("Forget {o}, they moved it to {v}.", "The client called: {v} instead of {o}."),
        ("What is the date now by which {s} must be done?",),
        ("What date had {s} first agreed on?",),
    ),
    Relation(
        ("spicy food", "horror films", "karaoke", "early mornings", "camping", "crowds", "coriander", "video calls"),
        (
            "If there is one thing that I can't stand, it is {v}.",
            ("Coming along?", "Only if there is no {v}."),
            "No {v} for me, ever again, after {w}.",
        ),
        ("What does {s} dislike?", "What would {s} rather do without?", "What can't {s} stand?"),
        ("{p} loves {v}.",),
        open=("What kind of evening would {s} not enjoy?",),
        several=("What does {s} hate?",),
    ),
)

SMALL_TALK = (
    "Hey {you}, how are you these days?", "Good to hear from you!", "Same here, the weather does not help.", "Ha, that made me laugh.",
    "I know exactly what you mean.", "Well, what can one do.", "That sounds wonderful, tell me more!",
    "Sorry for the late reply, it has been a lot.", "How was your weekend?", "Nothing special, a bit of cooking, a bit of reading.",
    "Do you want to talk about it?", "No worries at all.", "We should have dinner some time soon.", "I would love that, just say when.",
    "Take care, talk soon!", "Thanks, {you}, that means a lot to me.", "Is everything all right at home?",
    "More or less, you know how it goes.", "What a day. I need a holiday.", "Me too, somewhere with a lake.", "Did you sleep at all?",
    "Not much, the neighbours had a party.", "You always say that!", "Guilty as charged.", "Any plans for tonight?",
    "Just the couch and a film.", "I saw a dog today that looked like a cloud.", "Please send pictures next time!",
    "The tram was late again, of course.", "I burnt the rice, second time this month.", "Work is work. Let us not speak of it.",
    "It is getting dark so early now.", "Have you eaten yet?", "My phone died in the middle of your message.", "Congratulations, really!",
    "How exciting, I am so happy for you.", "That must have been hard.", "I am here if you need anything.",
    "Let me think about it and come back to you.", "Good idea, why not.", "I had the same thought this morning.",
    "Somebody at the office brought cake.", "My car makes that noise again.", "The doctor's waiting room was full, as always.",
    "I read something about it in the paper.", "Music helps me on such days.", "Money is tight for everybody this year.",
    "My sister says hello.", "Friends are worth more than a big flat.", "Children grow so fast.",
    "A new job every year, that is how it is today.", "I need a hobby that is not my phone.", "Someone should write a book about us.",
    "I met {p} on the tram {w}.", "{p} called me {w}, an hour about nothing.", "Did you hear that {p} won 50 euros in the lottery?",
    "I have to be at the dentist at 8 {w}, wish me luck.", "{p} and {you} should meet one day.",
    "We had 30 guests for the garden party of {p}.", "I moved the meeting with {p} to Thursday.", "My train was 90 minutes late {w}.",
    "I promised {p} to water the plants in August.", "The new boss is called {p}, can you believe it?",
    "I walked 12 kilometres {w}, my feet!", "{p} turned 40 and cried.", "I started to run again {w}.",
    "We decided to paint the hall, {p} helps.", "I bought two tickets for the match with {p}.", "Last winter was worse, remember?",
    "I saw {p} in the shop where we bought the lamp.", "{p} wants to sell the car in spring.", "I woke up at 5 and read the news.",
    "My class reunion is in October, {p} comes as well.", "The doctor said I should drink more water.",
    "{p} plays cards with my mother every Friday.", "I finished the puzzle with 1,000 pieces {w}.",
    "The garage is full of boxes since {p} moved.",
)  # fmt: skip

WHEN = (
    "last Tuesday",
    "two weeks ago",
    "on Saturday",
    "yesterday",
    "in the first week of May",
    "the day before my birthday",
    "on the 14th",
    "last month",
)
SPEAKERS = (
    ("Clara", "Henrik"), ("Amara", "Tobias"), ("Lucia", "Pavel"), ("Mirjam", "Oscar"), ("Fatima", "Ruben"),
    ("Greta", "Samuel"), ("Hana", "Viktor"), ("Ines", "Walter"), ("Judith", "Xaver"), ("Katja", "Yannis"),
)  # fmt: skip
OTHERS = ("Nora", "Dario", "Esther", "Farid", "Gunnar", "Hilde", "Ivo", "Jolanda", "Kasper", "Leonie", "Moritz", "Nadia")
